#include "convert/layouts/transformers_names.h"

#include <string>
#include <string_view>

namespace dsv3::convert {

const LayoutTable& TransformersNames() {
  using enum RuleRows;
  constexpr std::string_view kFused = "fused";
  static const LayoutTable table = {
      .title = "Hugging Face",
      .model_prefixes = {"model.", "lm_head."},
      .ignored = {},
      .outside = {},
      .layer =
          {
              {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.gate_up_proj", kUpper, kFused},
              {"mlp.experts.{E}.gate_proj.weight_scale_inv", "mlp.experts.gate_up_proj_scale_inv",
               kUpper, kFused},
              {"mlp.experts.{E}.up_proj.weight", "mlp.experts.gate_up_proj", kLower, kFused},
              {"mlp.experts.{E}.up_proj.weight_scale_inv", "mlp.experts.gate_up_proj_scale_inv",
               kLower, kFused},
              {"mlp.experts.{E}.down_proj.weight", "mlp.experts.down_proj", kAll, kFused},
              {"mlp.experts.{E}.down_proj.weight_scale_inv", "mlp.experts.down_proj_scale_inv",
               kAll, kFused},
          },
      .mtp = {},
      .main_prefixes = {{"model.layers.{L}."}},
      .mtp_prefixes = {{"model.layers.{L}."}},
      .mtp_prefix = "model.layers.{L}.",
      .copies = {},
      .rename = [](std::string_view name, bool /*mtp*/) { return std::string(name); },
  };
  return table;
}

}  // namespace dsv3::convert

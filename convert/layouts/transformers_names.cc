#include "convert/layouts/transformers_names.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/layouts/layout_names.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/write_layout.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/scale_names.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kFused = "fused";

// Throws if gate and up share a block of scales, which `tensor` would then hold.
void RequireApart(const ModelConfig& config, const quant::BlockShape& block,
                  const std::string& tensor) {
  if (config.moe_intermediate_size % block.rows == 0) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("tensor {}: gate and up of an expert have {} rows each, no multiple of the "
                  "{} rows of a scale block, so one block would hold rows of both; convert "
                  "with fp8-to-bf16 first",
                  QuoteForMessage(tensor), config.moe_intermediate_size, block.rows),
      {"", tensor});
}

}  // namespace

const LayoutTable& TransformersNames() {
  using enum RuleRows;
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
      .keeps_names = true,
  };
  return table;
}

LayoutReading ReadTransformersNames(const ModelConfig& config,
                                    const std::vector<StackTensor>& stack) {
  const LayoutTable& table = TransformersNames();
  std::vector<StackTensor> model = ModelTensorsOf(config);
  if (config.quantization && config.quantization->weight_block_size) {
    const quant::BlockShape block = *config.quantization->weight_block_size;
    const LayoutNames names(table, config);
    std::unordered_set<std::string_view> held;
    for (const StackTensor& tensor : stack) held.insert(tensor.name);
    std::vector<StackTensor> with_scales;
    for (StackTensor& weight : model) {
      StackTensor scale{ScaleNameOf(weight.name, ScaleNaming::kScaleInv), {}};
      if (weight.shape.size() == 2) {
        scale.shape = {CeilDiv(weight.shape[0], block.rows), CeilDiv(weight.shape[1], block.cols)};
      }
      with_scales.push_back(std::move(weight));
      if (scale.shape.empty()) continue;
      const std::vector<LayoutPlaces> places = names.PlacesOf(scale.name);
      const auto found = std::find_if(places.begin(), places.end(), [&](const LayoutPlaces& of) {
        return held.count(of.pieces.front().name) != 0;
      });
      if (found == places.end()) continue;
      const LayoutPlace& place = found->pieces.front();
      if (place.rule->rows != RuleRows::kAll) RequireApart(config, block, place.name);
      with_scales.push_back(std::move(scale));
    }
    model = std::move(with_scales);
  }
  return ReadLayout(table, config, model, stack);
}

std::vector<ComposedTensor> WriteFusedExperts(const ModelConfig& config,
                                              const std::vector<StackTensor>& model) {
  const bool has_blocks = config.quantization && config.quantization->weight_block_size;
  for (const StackTensor& tensor : model) {
    if (has_blocks && tensor.name.find(".experts.") != std::string::npos &&
        tensor.name.ends_with(".up_proj.weight_scale_inv")) {
      RequireApart(config, *config.quantization->weight_block_size, tensor.name);
    }
  }
  return WriteLayout(TransformersNames(), config, model, {kFused});
}

}  // namespace dsv3::convert

#include "convert/recipes/weight_dtypes.h"

#include <string_view>

#include "convert/model/expected_tensors.h"

namespace dsv3::convert {
namespace {

bool IsFusedExpert(std::string_view name) {
  return name.ends_with(".mlp.experts.gate_up_proj") || name.ends_with(".mlp.experts.down_proj");
}

bool IsHalfOfKvB(std::string_view name) {
  return name.ends_with(".k_b_proj.weight") || name.ends_with(".v_b_proj.weight");
}

}  // namespace

Bf16Names::Bf16Names(const OpenedModel& model) : known_(model.config.known) {
  ForEachExpected(
      model.config, FindNamePrefix(model.catalog), [&](const ExpectedTensorView& tensor) {
        const bool keeps_f32 = tensor.role == TensorRole::kRouterBias ||
                               tensor.role == TensorRole::kF32Parameter ||
                               tensor.role == TensorRole::kExpertTable ||
                               tensor.name.find(".indexer.k_norm.") != std::string_view::npos;
        if (!keeps_f32) names_.emplace(tensor.name);
      });
}

bool Bf16Names::Hold(const std::string& name) const {
  if (known_) return names_.count(name) != 0 || IsFusedExpert(name) || IsHalfOfKvB(name);
  return name.ends_with(".weight");
}

}  // namespace dsv3::convert

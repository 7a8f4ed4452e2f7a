#include "convert/recipes/weight_dtypes.h"

#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/assembled_model.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

bool IsFusedExpert(std::string_view name) {
  return name.ends_with(".mlp.experts.gate_up_proj") || name.ends_with(".mlp.experts.down_proj");
}

bool IsHalfOfKvB(std::string_view name) {
  return name.ends_with(".k_b_proj.weight") || name.ends_with(".v_b_proj.weight");
}

// Whether a weight may have the dtype; FP8 needs scales beside it.
bool IsStored(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kBF16 || dtype == Dtype::kF16 || IsFp8(dtype);
}

// Where a tensor is, or the first of those that it is made of.
const std::string& FileThatHolds(const OpenedModel& model, std::uint32_t tensor) {
  const Catalog& held = model.assembled ? model.assembled->stored : model.catalog;
  const std::uint32_t of_held =
      model.assembled ? model.assembled->origins[tensor]->streamed_sources().front() : tensor;
  return held.files()[held.tensors()[of_held].extent.file].name;
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

void RequireWeights(const OpenedModel& model) {
  if (!model.config.known) return;
  std::unordered_set<std::string> predicted;
  ForEachExpected(model.config, FindNamePrefix(model.catalog),
                  [&](const ExpectedTensorView& tensor) {
                    if (tensor.role != TensorRole::kExpertTable) predicted.emplace(tensor.name);
                  });
  for (std::uint32_t i = 0; i < model.catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = model.catalog.tensors()[i];
    const bool is_weight =
        predicted.count(tensor.name) != 0 || IsFusedExpert(tensor.name) || IsHalfOfKvB(tensor.name);
    if (!is_weight || IsStored(tensor.dtype) || RecogniseForm(model.catalog, model.config, i)) {
      continue;
    }
    const std::string& file = FileThatHolds(model, i);
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is {}, and no model of this family has such weights; "
                            "save the model in BF16 or F32",
                            formats::ShownPath(file), QuoteForMessage(tensor.name),
                            formats::DtypeName(tensor.dtype)),
                {file, tensor.name});
  }
  formats::RequireNoErrors(FindScaledWeights(model.catalog, model.config).findings,
                           {"fault of weights and scales", "faults of weights and scales"});
}

}  // namespace dsv3::convert

#include "convert/recipes/fp8_to_bf16.h"

#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "convert/model/activation_scales.h"
#include "convert/recipes/dequantize.h"
#include "formats/error.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {

void RefuseOtherForms(const ScaledWeights& found, std::string_view why,
                      std::string_view otherwise) {
  if (found.unsupported.empty()) return;
  formats::Finding first = found.unsupported.front();
  const bool readable = found.findings.empty() && found.readable.size() == found.formed.size();
  first.message += fmt::format(
      ", {}; {}", why,
      readable ? "make a BF16 checkpoint of it with `dsv3-convert dequantize`" : otherwise);
  const std::size_t more = found.unsupported.size() - 1;
  if (more > 0) {
    first.message += fmt::format(" ({} more such tensor{})", more, more == 1 ? "" : "s");
  }
  throw Error(ErrorCode::kBadInput, first.message, {first.file, first.tensor});
}

std::vector<ScaledWeight> PairScales(const Catalog& catalog, const ModelConfig& config) {
  ScaledWeights found = FindScaledWeights(catalog, config);
  RefuseOtherForms(found,
                   "which are not converted; only FP8 weights (F8_E4M3, F8_E5M2) with the scales "
                   "that config.json describes are",
                   "give the checkpoint that they were made from");
  formats::RequireNoErrors(found.findings,
                           {"fault of weights and scales", "faults of weights and scales"});
  if (found.pairs.empty()) {
    throw Error(
        ErrorCode::kBadInput,
        "this is not an FP8 checkpoint: not one of its tensors is FP8, so there is nothing to "
        "convert to BF16");
  }
  return std::move(found.pairs);
}

Plan PlanFp8ToBf16(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                   const DequantizeOptions& options, bool write_index) {
  return PlanDequantize(kFp8ToBf16, catalog, pairs, FindActivationScales(catalog, pairs), options,
                        write_index);
}

}  // namespace dsv3::convert

#include "convert/recipes/fp8_to_bf16.h"

#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/activation_scales.h"
#include "convert/model/config_edit.h"
#include "convert/plan/dequantize_expression.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {

void RefuseOtherForms(const ScaledWeights& found, std::string_view why) {
  if (found.unsupported.empty()) return;
  formats::Finding first = found.unsupported.front();
  first.message += fmt::format(", {}", why);
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
                   "that config.json describes are");
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
                   const Fp8ToBf16Options& options, bool write_index) {
  const ScaleMap scales(pairs, catalog.tensors().size());
  std::vector<bool> goes(catalog.tensors().size(), false);
  for (const ScaledWeight& pair : pairs) goes[pair.scale] = true;
  for (const std::uint32_t i : FindActivationScales(catalog, pairs)) goes[i] = true;

  Plan plan;
  plan.recipe = "fp8-to-bf16";
  plan.options = {{"allow_bad_scales", options.allow_bad_scales ? "true" : "false"}};
  std::vector<std::vector<std::pair<std::string, ExpressionPtr>>> files(catalog.files().size());
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (goes[i]) continue;
    const CatalogTensor& tensor = catalog.tensors()[i];
    const ScaledWeight* const pair = scales.OfWeight(i);
    files[tensor.extent.file].emplace_back(
        tensor.name, pair == nullptr ? Copy(catalog, i) : Dequantize(catalog, *pair));
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].empty()) continue;
    plan.files.push_back(PlanFile(catalog.files()[i].name, std::move(files[i])));
  }
  if (write_index) plan.index = PlanIndex(plan);
  return plan;
}

std::string ConfigForBf16(const std::string& config_text, const ModelConfig& config, Plan& plan) {
  const std::string file = "config.json";
  std::string text = config_text;
  // Multimodal configs nest the language model's fields; either level may carry any of these.
  std::vector<std::string> prefixes = {""};
  if (!config.prefix.empty()) prefixes.push_back(config.prefix);
  for (const std::string& prefix : prefixes) {
    for (const std::string_view key :
         {"quantization_config", "compression_config", "expert_dtype"}) {
      const std::string path = prefix + std::string(key);
      if (auto value = formats::JsonMember(text, path, file)) {
        plan.removed_config.emplace_back(path, std::move(*value));
        text = formats::RemoveJsonMember(text, path, file);
      }
    }
  }
  for (auto& member : SetConfigDtype(config, "bfloat16", text)) {
    plan.removed_config.push_back(std::move(member));
  }
  return text;
}

}  // namespace dsv3::convert

#include "convert/recipes/dequantize.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/activation_scales.h"
#include "convert/model/code_names.h"
#include "convert/model/config_edit.h"
#include "convert/model/quantized_form.h"
#include "convert/model/shifted_norms.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/recipes/own_shards.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

// Refuses the first weight whose values cannot be made.
void RefuseUnread(const ScaledWeights& found) {
  std::size_t unread = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < found.formed.size(); ++i) {
    const auto same = std::lower_bound(
        found.readable.begin(), found.readable.end(), found.formed[i].weight,
        [](const ScaledWeight& weight, std::uint32_t at) { return weight.weight < at; });
    if (same != found.readable.end() && same->weight == found.formed[i].weight) continue;
    if (unread++ == 0) first = i;
  }
  if (unread == 0) return;
  const formats::Finding& finding = found.unsupported[first];
  std::string message = fmt::format("{}, which cannot be dequantised", finding.message);
  if (!found.formed[first].unread.empty()) message += ": " + found.formed[first].unread;
  if (unread > 1) {
    message += fmt::format(" ({} more such tensor{})", unread - 1, unread == 2 ? "" : "s");
  }
  throw Error(ErrorCode::kBadInput, message, {finding.file, finding.tensor});
}

[[noreturn]] void FailNothingQuantized(const ModelConfig& config) {
  std::string says;
  if (config.quantization) {
    const QuantizationConfig& quantization = *config.quantization;
    says =
        fmt::format(", although config.json says {}{}", QuoteForMessage(quantization.quant_method),
                    quantization.format.empty()
                        ? ""
                        : fmt::format(", format {}", QuoteForMessage(quantization.format)));
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("this is not a quantised checkpoint: not one of its tensors holds codes "
                          "of a form that is known here{}, so there is nothing to convert to BF16",
                          says));
}

// Refuses matrices of bytes that no form explains: copied, they would be taken for the weights.
void RefuseUnexplained(const Catalog& catalog, const std::vector<ScaledWeight>& weights) {
  const ScaleMap scales(weights, catalog.tensors().size());
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    const bool bytes = tensor.dtype == formats::Dtype::kI8 || tensor.dtype == formats::Dtype::kU8;
    if (!bytes || tensor.shape.size() != 2 || !tensor.name.ends_with(".weight") ||
        scales.OfWeight(i) != nullptr) {
      continue;
    }
    const std::string& file = catalog.files()[tensor.extent.file].name;
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: tensor {} is {}, but neither the tensors beside it nor config.json "
                    "say how values are made of it: no form that is known here has such "
                    "codes; give the checkpoint that it was made from",
                    formats::ShownPath(file), QuoteForMessage(tensor.name),
                    formats::DtypeName(tensor.dtype)),
        {file, tensor.name});
  }
}

// The tensors beside a weight's codes that are in no expression, by name.
std::vector<std::string> NamesBeside(std::string_view codes) {
  const std::string weight = WeightOfCodes(codes);
  std::vector<std::string> names = NamesBesideWeight(weight);
  for (std::string& name : ActivationScaleNames(weight)) names.push_back(std::move(name));
  // W4AFP8's scales of activations have names of their own.
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t experts = weight.rfind(kExperts);
  if (experts == std::string::npos) return names;
  const std::size_t number_end = weight.find('.', experts + kExperts.size());
  if (number_end == std::string::npos) return names;
  for (const char* const part : {"w1", "w2", "w3"}) {
    names.push_back(fmt::format("{}.{}.input_scale", weight.substr(0, number_end), part));
  }
  return names;
}

std::vector<bool> ScalesOf(const Catalog& catalog, const std::vector<ScaledWeight>& weights) {
  std::vector<bool> scales(catalog.tensors().size(), false);
  for (const ScaledWeight& weight : weights) {
    scales[weight.scale] = true;
    if (weight.tensor_scale != Catalog::kNone) scales[weight.tensor_scale] = true;
    if (weight.zeros != Catalog::kNone) scales[weight.zeros] = true;
  }
  return scales;
}

}  // namespace

QuantizedModel FindQuantizedModel(const Catalog& catalog, const ModelConfig& config) {
  QuantizedModel model = FindQuantizedWeights(catalog, config);
  if (model.weights.empty()) FailNothingQuantized(config);
  return model;
}

QuantizedModel FindQuantizedWeights(const Catalog& catalog, const ModelConfig& config) {
  ScaledWeights found = FindScaledWeights(catalog, config);
  formats::RequireNoErrors(found.findings,
                           {"fault of weights and scales", "faults of weights and scales"});
  RefuseUnread(found);
  QuantizedModel model;
  const std::vector<std::uint32_t> activations = FindActivationScales(catalog, found.pairs);
  const std::vector<ScaledWeight> coded = found.readable;
  model.weights = std::move(found.pairs);
  model.weights.insert(model.weights.end(), coded.begin(), coded.end());
  RefuseUnexplained(catalog, model.weights);
  std::sort(model.weights.begin(), model.weights.end(),
            [](const ScaledWeight& a, const ScaledWeight& b) { return a.weight < b.weight; });

  std::vector<bool> kept = ScalesOf(catalog, model.weights);
  for (const ScaledWeight& weight : model.weights) kept[weight.weight] = true;
  const auto drop = [&](std::uint32_t position) {
    if (position == Catalog::kNone || kept[position]) return;
    kept[position] = true;  // once
    model.dropped.push_back(position);
  };
  for (const std::uint32_t position : activations) drop(position);
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (IsAttentionScale(catalog.tensors()[i].name)) drop(i);
  }
  for (const ShiftedNorm& norm : FindShiftedNorms(catalog)) drop(norm.bias);
  for (const ScaledWeight& weight : coded) {
    for (const std::string& name : NamesBeside(catalog.tensors()[weight.weight].name)) {
      drop(catalog.Find(name));
    }
  }
  std::sort(model.dropped.begin(), model.dropped.end());
  return model;
}

Plan PlanDequantize(const std::string& recipe, const Catalog& catalog,
                    const std::vector<ScaledWeight>& weights,
                    const std::vector<std::uint32_t>& dropped, const DequantizeOptions& options,
                    bool write_index) {
  const ScaleMap scales(weights, catalog.tensors().size());
  std::vector<bool> goes = ScalesOf(catalog, weights);
  for (const std::uint32_t i : dropped) goes[i] = true;

  Plan plan;
  plan.recipe = recipe;
  plan.options = {FlagOption("allow_bad_scales", options.allow_bad_scales)};
  std::vector<NamedExpressions> files(catalog.files().size());
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (goes[i]) continue;
    const CatalogTensor& tensor = catalog.tensors()[i];
    const ScaledWeight* const weight = scales.OfWeight(i);
    files[tensor.extent.file].emplace_back(
        weight == nullptr ? tensor.name : WeightOfCodes(tensor.name),
        weight == nullptr ? Copy(catalog, i) : Dequantize(catalog, *weight));
  }
  PlanSameShards(catalog, std::move(files), write_index, plan);
  return plan;
}

}  // namespace dsv3::convert

#include "convert/model/model_check.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/fitting_fields.h"
#include "convert/model/layers_held.h"
#include "convert/model/stored_instead.h"
#include "convert/model/tensor_match.h"
#include "convert/model/v4_tensors.h"
#include "formats/dtype.h"
#include "formats/dtype_kind.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/shape.h"

namespace dsv3::convert {
namespace {

// How many tensors of a layer the config predicts, and how many of these are missing.
struct LayerTally {
  std::uint64_t expected = 0;
  std::uint64_t missing = 0;

  // The end of a message about a missing one; empty where all or none are.
  std::string Text(std::uint32_t layer) const {
    if (missing == 0 || missing == expected) return "";
    return fmt::format("; layer {} is there in part, {} of its {} tensors {} missing", layer,
                       missing, expected, missing == 1 ? "is" : "are");
  }
};

// Which value would fit a tensor of another shape by itself; empty where that is not known.
std::string FittingRows(const CatalogTensor& tensor, TensorRole role,
                        const formats::Shape& expected) {
  // Embedding and head may have rows beyond the tokens.
  const bool has_other_rows = (role == TensorRole::kEmbedding || role == TensorRole::kHead) &&
                              expected.size() == 2 && tensor.shape.size() == 2 &&
                              tensor.shape[1] == expected[1];
  const bool has_other_experts =
      (role == TensorRole::kRouter || role == TensorRole::kRouterBias) &&
      expected.size() == tensor.shape.size() && tensor.shape[0] != expected[0] &&
      std::equal(expected.begin() + 1, expected.end(), tensor.shape.begin() + 1);
  if (!has_other_rows && !has_other_experts) return "";
  return fmt::format("; {} {} would fit this tensor",
                     has_other_rows ? "vocab_size" : "n_routed_experts", tensor.shape[0]);
}

// A weight of another shape in a dtype that only codes have: its form is not known, so neither is
// its shape.
bool AreUnknownCodes(const CatalogTensor& tensor, TensorRole role,
                     const TensorMatch::Difference& difference) {
  return IsQuantized(role) && difference.form.empty() &&
         (formats::IsInteger(tensor.dtype) || formats::DtypeBits(tensor.dtype) < 8);
}

// `fitting`: which value of the config would fit the tensor.
formats::Finding WrongShape(const ModelConfig& config, const Catalog& catalog, TensorRole role,
                            const TensorMatch::Difference& difference, const std::string& fitting) {
  const CatalogTensor& tensor = catalog.tensors()[difference.position];
  const std::string& file = catalog.files()[tensor.extent.file].name;
  if (AreUnknownCodes(tensor, role, difference)) {
    return {formats::Severity::kError, "wrong-shape", file, tensor.name,
            fmt::format("{}: tensor {} is {} {}, where config.json ({}) predicts values of shape "
                        "{}: it holds codes in a form that is not known here; give the checkpoint "
                        "that they were made from",
                        formats::ShownPath(file), QuoteForMessage(tensor.name),
                        formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape),
                        config.model_type, formats::ShapeToString(difference.shape))};
  }
  const std::string form =
      difference.form.empty() ? "" : fmt::format(" for {} weights", difference.form);
  return {
      formats::Severity::kError, "wrong-shape", file, tensor.name,
      fmt::format("{}: tensor {} has shape {}, but config.json ({}) predicts {}{}; the config or "
                  "the file belongs to another model, take both from one place{}",
                  formats::ShownPath(file), QuoteForMessage(tensor.name),
                  formats::ShapeToString(tensor.shape), config.model_type,
                  formats::ShapeToString(difference.shape), form, fitting)};
}

formats::Finding ModuleNames(const Catalog& catalog, std::uint32_t position) {
  const CatalogTensor& tensor = catalog.tensors()[position];
  const std::string& file = catalog.files()[tensor.extent.file].name;
  return {formats::Severity::kError, "module-names", file, tensor.name,
          fmt::format("{}: tensor {} has the name of a module of transformers, as save_pretrained "
                      "writes it with save_original_format=False; no engine reads these names: "
                      "load the model with transformers and save it again without that argument",
                      formats::ShownPath(file), QuoteForMessage(tensor.name))};
}

}  // namespace

std::string_view UnknownFormIn(const formats::Finding& finding) {
  const std::string held = fmt::format("{}{}", kNoFileHoldsIt, kUnderThisName);
  const std::string_view message = finding.message;
  const std::size_t at = message.find(held);
  return at == std::string_view::npos ? std::string_view() : message.substr(at + held.size());
}

formats::Findings CheckAgainstModel(const ModelConfig& config, const Catalog& catalog) {
  using formats::Severity;
  formats::Findings findings;
  if (!config.known) {
    findings.push_back(
        {Severity::kWarning, "unknown-model-type", "config.json", "",
         fmt::format("config.json: the model_type {} is not one whose tensors are known here, so "
                     "whether the checkpoint is complete cannot be checked against the config",
                     QuoteForMessage(config.model_type))});
    return findings;
  }
  const std::uint32_t module = config.v4 ? FindV4ModuleName(catalog) : Catalog::kNone;
  if (module != Catalog::kNone) return {ModuleNames(catalog, module)};
  const std::string_view prefix = FindNamePrefix(catalog);
  const LayersHeld layers(catalog, prefix);
  std::map<std::uint32_t, LayerTally> tallies;
  std::vector<std::pair<std::size_t, std::uint32_t>> missing;  // finding and layer
  std::optional<StoredInstead> stored_instead;                 // made for the first missing weight
  const auto find_instead = [&](const ExpectedTensorView& expected) {
    if (!IsQuantized(expected.role)) return Catalog::kNone;
    if (!stored_instead) stored_instead.emplace(catalog);
    const std::uint32_t found = stored_instead->Find(expected.name);
    if (found != Catalog::kNone || expected.role != TensorRole::kExpertLinear) return found;
    return stored_instead->Find(FusedExpertsName(expected.name));
  };
  std::optional<FittingFields> fields;  // made for the first finding that needs it
  const auto fitting_fields = [&]() -> const FittingFields& {
    if (!fields) fields.emplace(config, catalog, prefix);
    return *fields;
  };
  TensorMatch match;
  ForEachExpected(config, prefix, [&](const ExpectedTensorView& expected) {
    if (expected.layer != ExpectedTensor::kNoLayer) ++tallies[expected.layer].expected;
    MatchTensor(config, catalog, expected, match);
    for (const TensorMatch::Difference& difference : match.differences) {
      if (difference.position == Catalog::kNone) continue;
      std::string fitting = fitting_fields().ForShape(difference.position);
      if (fitting.empty()) {
        fitting =
            FittingRows(catalog.tensors()[difference.position], expected.role, difference.shape);
      }
      findings.push_back(WrongShape(config, catalog, expected.role, difference, fitting));
    }
    if (match.differences.empty() || match.differences[0].position != Catalog::kNone) return;
    findings.push_back(
        {Severity::kError, "missing-tensor", "", std::string(expected.name),
         fmt::format("tensor {}: config.json ({}, {} layers) predicts it with shape {}{}",
                     QuoteForMessage(expected.name), config.model_type, config.num_hidden_layers,
                     formats::ShapeToString(match.differences[0].shape), kNoFileHoldsIt)});
    std::string& message = findings.back().message;
    // No form has codes for norms and biases.
    const std::string other_form =
        expected.shape.size() < 2 ? "" : UnknownFormText(config, catalog, find_instead(expected));
    if (!other_form.empty()) {
      message += other_form;
      return;
    }
    std::string fitting = FittingValue(config, layers, expected);
    if (fitting.empty()) fitting = fitting_fields().ForMissing(expected.name);
    message += fmt::format("{}download what is missing{}", kIncomplete, fitting);
    if (expected.layer != ExpectedTensor::kNoLayer) {
      ++tallies[expected.layer].missing;
      missing.emplace_back(findings.size() - 1, expected.layer);
    }
  });
  for (const auto& [finding, layer] : missing) {
    findings[finding].message += tallies[layer].Text(layer);
  }
  return findings;
}

}  // namespace dsv3::convert

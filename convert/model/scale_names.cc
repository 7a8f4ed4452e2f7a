#include "convert/model/scale_names.h"

#include <utility>

namespace dsv3::convert {
namespace {

constexpr std::string_view kInverseEnding = "_scale_inv";
constexpr std::string_view kEnding = "_scale";
constexpr std::string_view kSecondEnding = "_scale_2";  // NVFP4's scale of the scales
constexpr std::string_view kPackedEnding = "_packed";
constexpr std::string_view kScale = "scale";
constexpr std::string_view kScales = "scales";  // of AWQ and GPTQ
constexpr std::string_view kWeight = "weight";

// The rest of a name that ends in `ending`.
std::optional<std::string> Without(std::string_view name, std::string_view ending) {
  if (!name.ends_with(ending)) return std::nullopt;
  return std::string(name.substr(0, name.size() - ending.size()));
}

// "a.weight" with "scale" in place of "weight": only a whole last component is replaced.
std::optional<std::string> WithLast(std::string_view name, std::string_view last,
                                    std::string_view replacement) {
  auto module = Without(name, last);
  if (!module || (!module->empty() && module->back() != '.')) return std::nullopt;
  return module->append(replacement);
}

}  // namespace

std::string ScaleNameOf(std::string_view weight, ScaleNaming naming) {
  if (naming == ScaleNaming::kScaleInv) return std::string(weight).append(kInverseEnding);
  if (naming == ScaleNaming::kScale) {
    if (auto name = WithLast(weight, kWeight, kScale)) return std::move(*name);
  }
  return std::string(weight).append(kEnding);
}

std::vector<std::string> ScaleNamesOf(std::string_view weight) {
  std::vector<std::string> names;
  for (const ScaleNaming naming : kScaleNamings) {
    std::string name = ScaleNameOf(weight, naming);
    if (names.empty() || names.back() != name) names.push_back(std::move(name));
  }
  return names;
}

std::optional<ParsedScaleName> ParseScaleName(std::string_view name) {
  if (auto weight = Without(name, kInverseEnding)) {
    return ParsedScaleName{ScaleNaming::kScaleInv, std::move(*weight)};
  }
  if (auto weight = Without(name, kEnding)) {
    return ParsedScaleName{ScaleNaming::kWeightScale, std::move(*weight)};
  }
  if (auto weight = WithLast(name, kScale, kWeight)) {
    return ParsedScaleName{ScaleNaming::kScale, std::move(*weight)};
  }
  return std::nullopt;
}

std::string WeightNameOf(std::string_view codes) {
  auto weight = Without(codes, kPackedEnding);
  return weight && weight->ends_with(kWeight) ? std::move(*weight) : std::string(codes);
}

std::string PackedNameOf(std::string_view weight) {
  return std::string(weight).append(kPackedEnding);
}

std::vector<std::string> CodeNamesOf(std::string_view scale) {
  if (auto codes = WithLast(scale, kScales, "qweight")) return {std::move(*codes)};
  auto weight = Without(scale, kSecondEnding);
  if (!weight) {
    auto parsed = ParseScaleName(scale);
    if (!parsed) return {};
    weight = std::move(parsed->weight);
    if (parsed->naming == ScaleNaming::kScale) return {std::move(*weight)};
  }
  return {*weight, *weight + std::string(kPackedEnding)};
}

}  // namespace dsv3::convert

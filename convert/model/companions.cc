#include "convert/model/companions.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/model/form_table.h"
#include "formats/dtype.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::string_view kColumnZeros = "qzeros";

// What nothing but a weight in codes has beside it.
constexpr std::array<std::string_view, 11> kOfCodes = {
    "weight_scale_2", "weight_global_scale", "input_global_scale", "weight_zero_point",
    "weight_shape",   "weight_offset",       "weight_g_idx",       "input_offset",
    "deq_scale",      "quant_bias",          kColumnZeros};

// Names that other modules may have, too, but no weight in floating point has beside it.
constexpr std::array<std::string_view, 5> kNotOfFloats = {"pre_quant_scale", "scales", "g_idx",
                                                          "SCB", "weight_scales"};

// bitsandbytes puts more behind the name of the weight.
constexpr std::string_view kBehindWeight = ".weight.";
constexpr std::array<std::string_view, 7> kBitsandbytes = {"absmax",
                                                           "quant_map",
                                                           "nested_absmax",
                                                           "nested_quant_map",
                                                           "SCB",
                                                           "quant_state.bitsandbytes__nf4",
                                                           "quant_state.bitsandbytes__fp4"};

bool Holds(std::span<const std::string_view> parts, std::string_view part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

std::string DescribeBesideFloat(const std::string& name, const std::string& weight) {
  return fmt::format(
      "tensor {} belongs beside the codes of a quantised weight, but {} holds values that are not "
      "quantised; was the checkpoint converted in part?",
      QuoteForMessage(name), QuoteForMessage(weight));
}

// A tensor that bitsandbytes puts beside codes, where the weight is a float.
std::optional<std::string> DescribeBitsandbytesOrphan(const Catalog& catalog,
                                                      const std::string& name) {
  const std::size_t behind = name.rfind(kBehindWeight);
  if (behind == std::string::npos) return std::nullopt;
  const std::string weight = name.substr(0, behind + kBehindWeight.size() - 1);
  const std::uint32_t position = catalog.Find(weight);
  if (!Holds(kBitsandbytes, std::string_view(name).substr(weight.size() + 1)) ||
      position == Catalog::kNone || !IsPlainFloat(catalog.tensors()[position].dtype)) {
    return std::nullopt;
  }
  return DescribeBesideFloat(name, weight);
}

}  // namespace

bool IsPlainFloat(Dtype dtype) {
  return dtype == Dtype::kBF16 || dtype == Dtype::kF16 || dtype == Dtype::kF32 ||
         dtype == Dtype::kF64;
}

std::string_view FindForeignPart(const FormEvidence& evidence,
                                 std::span<const std::string_view> own) {
  const auto parts = TellingParts();
  const auto foreign = std::find_if(parts.begin(), parts.end(), [&](std::string_view part) {
    return !Holds(own, part) && evidence.Has(part);
  });
  return foreign == parts.end() ? std::string_view() : *foreign;
}

bool HasPartsBeyondScales(const Catalog& catalog) {
  std::vector<std::string_view> parts;
  for (const std::string_view part : TellingParts()) {
    const bool is_scale = part == "weight_scale_inv" || part == "weight_scale" || part == "scale";
    if (!is_scale) parts.push_back(part);
  }
  return std::any_of(
      catalog.tensors().begin(), catalog.tensors().end(), [&](const CatalogTensor& tensor) {
        return std::any_of(parts.begin(), parts.end(),
                           [&](std::string_view part) { return tensor.name.ends_with(part); });
      });
}

std::string_view FindMissingPart(const FormEvidence& evidence,
                                 std::span<const std::string_view> needed) {
  const auto missing = std::find_if(needed.begin(), needed.end(),
                                    [&](std::string_view part) { return !evidence.Has(part); });
  return missing == needed.end() ? std::string_view() : *missing;
}

std::optional<std::string> DescribeOrphan(const Catalog& catalog, std::uint32_t tensor) {
  const std::string& name = catalog.tensors()[tensor].name;
  if (auto orphan = DescribeBitsandbytesOrphan(catalog, name)) return orphan;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return std::nullopt;
  const std::string_view part = std::string_view(name).substr(dot + 1);
  const bool sure = Holds(kOfCodes, part);
  if (!sure && !Holds(kNotOfFloats, part)) return std::nullopt;
  const std::string module = name.substr(0, dot + 1);
  bool has_float = false;
  for (const char* const codes : {"weight", "weight_packed", "qweight", "weight_blocks"}) {
    const std::uint32_t position = catalog.Find(module + codes);
    if (position == Catalog::kNone) continue;
    if (!IsPlainFloat(catalog.tensors()[position].dtype)) return std::nullopt;
    has_float = true;
  }
  if (!sure && !has_float) return std::nullopt;
  const char* const usual = part == kColumnZeros ? "qweight" : "weight_packed";
  if (has_float) return DescribeBesideFloat(name, module + "weight");
  return fmt::format(
      "tensor {} belongs beside the codes of a quantised weight, but there are "
      "none: neither {} nor another name of theirs is in any shard; the checkpoint "
      "is incomplete, or was converted in part",
      QuoteForMessage(name), QuoteForMessage(module + usual));
}

}  // namespace dsv3::convert

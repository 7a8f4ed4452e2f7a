#include "convert/model/form_evidence.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/catalog/glob.h"
#include "formats/text_encoding.h"

namespace dsv3::convert {

std::string FormEvidence::Name(std::string_view part) const {
  return fmt::format("{}.{}", module_, part);
}

std::uint32_t FormEvidence::Position(std::string_view part) const {
  return catalog_.Find(Name(part));
}

const CatalogTensor* FormEvidence::Find(std::string_view part) const {
  const std::uint32_t position = Position(part);
  return position == Catalog::kNone ? nullptr : &catalog_.tensors()[position];
}

std::string_view FormEvidence::Method() const {
  if (config_.quantization) return config_.quantization->quant_method;
  return config_.modelopt ? std::string_view("modelopt") : std::string_view();
}

std::string_view FormEvidence::Algorithm() const {
  if (config_.quantization && !config_.quantization->quant_algo.empty()) {
    return config_.quantization->quant_algo;
  }
  return config_.modelopt ? std::string_view(config_.modelopt->quant_algo) : std::string_view();
}

bool FormEvidence::HasKnownAlgorithm() const {
  // "FP8_BLOCK_SCALES", "NVFP4_AWQ", "W4A8_MXFP4_FP8", and in small letters "mxfp8" …
  constexpr std::string_view kBegins[] = {"FP8",  "NVFP4", "MXFP4", "MXFP8",          "INT8",
                                          "INT4", "W4A",   "W8A",   "MIXED_PRECISION"};
  std::string name(Algorithm());
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  const auto begins = [&](std::string_view known) { return name.starts_with(known); };
  return !IsModelOpt() || name.empty() ||
         std::any_of(std::begin(kBegins), std::end(kBegins), begins);
}

bool FormEvidence::IsModelOptInt4() const {
  const std::string_view name = Algorithm();
  return IsModelOpt() && (name.starts_with("W4A") || name.starts_with("INT4")) &&
         name.find("FP4") == std::string_view::npos;
}

bool FormEvidence::IsModelOptMxFp4() const {
  return IsModelOpt() && formats::AsciiLower(Algorithm()).find("mxfp4") != std::string::npos;
}

bool FormEvidence::IsExcluded() const {
  if (!config_.modelopt) return false;
  const std::string name(module_);
  const std::vector<std::string>& excluded = config_.modelopt->exclude_modules;
  return std::any_of(excluded.begin(), excluded.end(),
                     [&](const std::string& glob) { return MatchesGlob(glob, name); });
}

std::uint64_t FormEvidence::PackedBits() const {
  std::uint64_t bits = 0;
  if (!config_.quantization) return 0;
  for (const QuantizationGroup& group : config_.quantization->groups) {
    if (group.type != "int") continue;
    if (bits != 0 && bits != group.num_bits) return 0;
    bits = group.num_bits;
  }
  return bits;
}

std::uint64_t FormEvidence::AwqBits() const {
  const std::uint64_t bits = Method() == "awq" ? PackedBits() : 0;
  return bits != 0 ? bits : BitsOfZeros();
}

std::uint64_t FormEvidence::BitsOfZeros() const {
  constexpr std::uint64_t kWordBits = 32;
  const CatalogTensor* const zeros = Find("qzeros");
  const CatalogTensor* const scales = Find("scales");
  if (zeros == nullptr || scales == nullptr || zeros->shape.size() != 2 ||
      scales->shape.size() != 2) {
    return 0;
  }
  // There is a zero for each scale, packed along the rows of the weight.
  for (const std::uint64_t bits : {4U, 8U, 3U, 2U}) {
    if (zeros->shape[1] == CeilDiv(scales->shape[1] * bits, kWordBits)) return bits;
  }
  return 0;
}

}  // namespace dsv3::convert

#include "convert/model/scale_fmt.h"

#include <bit>
#include <cmath>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/zero_weights.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::uint32_t kMantissa = 0x007F'FFFF;
constexpr std::uint32_t kSmallestNormal = 0x0080'0000;
// The significand of every o_proj scale of DeepSeek-V3.1, as published to five digits: the root of
// 1.75.
constexpr float kV31Significand = 1.32288F;

// The significand of a positive finite float as 23 bits; those of subnormals are shifted up.
std::uint32_t SignificandOf(std::uint32_t bits) {
  if (bits < kSmallestNormal) bits <<= std::countl_zero(bits) - 8;
  return bits & kMantissa;
}

constexpr std::string_view kAsInV31 =
    "share the significand 1.32288, as in DeepSeek-V3.1's own release";

// A count of scale tensors and one of them.
struct Group {
  std::uint64_t tensors = 0;
  std::string_view example;

  void Add(std::string_view name) {
    if (tensors++ == 0) example = name;
  }
  std::string Shown() const {
    return fmt::format("{} {}, such as {}", tensors,
                       tensors == 1 ? "scale tensor" : "scale tensors", QuoteForMessage(example));
  }
};

bool IsV31Exception(std::string_view name, const ScaleSignificands& significands) {
  const std::optional<float> shared = significands.Shared();
  return name.find(".o_proj.") != std::string_view::npos && shared &&
         std::abs(*shared - kV31Significand) < 1e-5F;
}

formats::Finding Warning(std::string message) {
  return {formats::Severity::kWarning, "scale-fmt-contradiction", "config.json", "",
          std::move(message)};
}

}  // namespace

void ScaleSignificands::Add(std::span<const float> scales) {
  for (const float scale : scales) {
    if (!std::isfinite(scale) || scale <= 0) continue;
    const std::uint32_t significand = SignificandOf(std::bit_cast<std::uint32_t>(scale));
    if (this->scales() == 0) significand_ = significand;
    differ_ = differ_ || significand != significand_;
    if (significand == 0) {
      ++powers_of_two_;
      any_but_one_ = any_but_one_ || scale != 1;
      if (scale == kLeastE8M0) ++least_e8m0_;
    } else {
      ++others_;
    }
  }
}

void ScaleSignificands::Add(const ScaleSignificands& other) {
  if (other.scales() == 0) return;
  if (scales() == 0) significand_ = other.significand_;
  differ_ = differ_ || other.differ_ || other.significand_ != significand_;
  powers_of_two_ += other.powers_of_two_;
  others_ += other.others_;
  least_e8m0_ += other.least_e8m0_;
  any_but_one_ = any_but_one_ || other.any_but_one_;
}

std::optional<float> ScaleSignificands::Shared() const {
  if (scales() == 0 || differ_) return std::nullopt;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(1.0F) | significand_);
}

std::optional<formats::Finding> CheckScaleFmt(const Catalog& catalog, const ModelConfig& config,
                                              std::span<const ScaledWeight> pairs,
                                              std::span<const ScaleSignificands> significands) {
  Group others;     // no powers of two
  Group exception;  // V3.1's
  Group e8m0;
  Group powers;  // all powers of two, in a dtype that could hold others
  bool any_but_one = false;
  std::uint64_t other_scales = 0;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const std::string_view name = catalog.tensors()[pairs[i].scale].name;
    const ScaleSignificands& found = significands[i];
    if (found.scales() == 0) continue;
    if (pairs[i].scale_format == quant::ScaleFormat::kE8M0) {
      e8m0.Add(name);
    } else if (found.AllPowersOfTwo()) {
      powers.Add(name);
      any_but_one = any_but_one || found.AnyButOne();
    } else if (IsV31Exception(name, found)) {
      exception.Add(name);
    } else {
      others.Add(name);
      other_scales += found.scales() - found.powers_of_two();
    }
  }

  const std::string claim = config.quantization ? config.quantization->scale_fmt : "";
  constexpr std::string_view kUsed =
      "the values are used as they are, whatever scale_fmt says; correct the config before other "
      "tools believe it";
  if (claim == "ue8m0") {
    if (others.tensors + exception.tensors == 0) return std::nullopt;
    std::string which;
    if (others.tensors != 0) {
      which = fmt::format("{} ({} {})", others.Shown(), other_scales,
                          other_scales == 1 ? "scale" : "scales");
    }
    if (exception.tensors != 0) {
      which += fmt::format("{}{}, whose scales {}", which.empty() ? "" : "; ", exception.Shown(),
                           kAsInV31);
    }
    return Warning(fmt::format(
        "config.json: scale_fmt is \"ue8m0\", which means that all scales are powers of "
        "two, but these are not: {}; {}",
        which, kUsed));
  }
  if (powers.tensors != 0 && others.tensors == 0 && any_but_one) {
    const std::string except = exception.tensors == 0 ? ""
                                                      : fmt::format(", but for {}, whose scales {}",
                                                                    exception.Shown(), kAsInV31);
    return Warning(fmt::format(
        "config.json: {}, expected \"ue8m0\": the scales of {}, are all powers of two{}; {}",
        claim.empty() ? "there is no scale_fmt"
                      : fmt::format("scale_fmt is {}", QuoteForMessage(claim)),
        powers.Shown(), except, kUsed));
  }
  if (!claim.empty() && e8m0.tensors != 0) {
    return Warning(
        fmt::format("config.json: scale_fmt is {}, expected \"ue8m0\": {}, hold F8_E8M0, which is "
                    "nothing but powers of two; {}",
                    QuoteForMessage(claim), e8m0.Shown(), kUsed));
  }
  return std::nullopt;
}

std::optional<formats::Finding> CheckScalesOfZeros(
    const Catalog& catalog, std::span<const ScaledWeight> pairs,
    std::span<const ScaleSignificands> significands) {
  const CatalogTensor* first = nullptr;
  std::uint64_t scales = 0;  // of the first
  std::uint64_t others = 0;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (pairs[i].scale_format != quant::ScaleFormat::kE8M0) continue;
    if (significands[i].least_e8m0() == 0) continue;
    if (first != nullptr) {
      ++others;
      continue;
    }
    first = &catalog.tensors()[pairs[i].scale];
    scales = significands[i].least_e8m0();
  }
  if (first == nullptr) return std::nullopt;
  const std::string& file = catalog.files()[first->extent.file].name;
  return formats::Finding{
      formats::Severity::kWarning, "zero-scales", file, first->name,
      fmt::format("{}: {} of the scales in {} {} 2^-127 (the byte 0), which tools write for "
                  "blocks of zeros alone; if the weights have other values there, a part of the "
                  "file was never written: check IN with dsv3-verify numeric{}",
                  formats::ShownPath(file), scales, QuoteForMessage(first->name),
                  scales == 1 ? "is" : "are",
                  others == 0 ? "" : fmt::format(" ({} more such tensors)", others))};
}

}  // namespace dsv3::convert

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/codec.h"
#include "quant/quantize.h"

// What each recipe makes, written a second time: in double, whose 53 bits round a quotient or
// product of floats to float as if it were exact, and by searching the nearest code.
namespace dsv3::quant {

inline constexpr QuantizeRecipe kAllRecipes[] = {
    QuantizeRecipe::kDeepSeek, QuantizeRecipe::kDeepGemm, QuantizeRecipe::kTransformers,
    QuantizeRecipe::kLlmCompressor};
inline constexpr ScaleFmt kAllScaleFmts[] = {ScaleFmt::kF32, ScaleFmt::kUe8m0, ScaleFmt::kE8M0};
inline constexpr FloatFormat kAllFloatFormats[] = {FloatFormat::kBF16, FloatFormat::kF16,
                                                   FloatFormat::kF32};

struct OracleRule {
  double divisor = 1;
  double factor = 0;  // instead of the divisor, when not 0
  float scale = 1;
};

inline float OracleRound(FloatFormat format, float value) {
  if (format == FloatFormat::kF32) return value;
  return format == FloatFormat::kBF16 ? DecodeBF16(EncodeBF16(value)) : DecodeF16(EncodeF16(value));
}

inline double PowerAtLeast(float scale, int smallest) {
  int exponent = smallest;
  while (std::ldexp(1.0, exponent) < static_cast<double>(scale)) ++exponent;
  return std::ldexp(1.0, exponent);
}

inline OracleRule OracleRuleOf(const QuantizeFormat& format, FloatFormat values, float amax) {
  const int smallest = format.scale_fmt == ScaleFmt::kE8M0 ? -127 : -126;
  const auto divide = [](double by) {
    return OracleRule{.divisor = by, .factor = 0, .scale = static_cast<float>(by)};
  };
  const bool powers = format.scale_fmt != ScaleFmt::kF32;
  const auto plain = static_cast<float>(static_cast<double>(amax) / 448);
  switch (format.recipe) {
    case QuantizeRecipe::kDeepSeek:
      if (amax == 0) return divide(1);
      if (powers) return divide(PowerAtLeast(plain, smallest));
      return divide(plain == 0 ? std::ldexp(1.0, -149) : static_cast<double>(plain));
    case QuantizeRecipe::kDeepGemm: {
      const double floored = std::max(static_cast<double>(amax), static_cast<double>(1e-4F));
      OracleRule rule = divide(static_cast<double>(static_cast<float>(floored / 448)));
      if (powers) rule = divide(PowerAtLeast(rule.scale, -126));
      rule.factor = static_cast<double>(static_cast<float>(1 / rule.divisor));
      return rule;
    }
    case QuantizeRecipe::kTransformers: {
      if (amax == 0) return divide(1);
      const auto reciprocal = static_cast<float>(1 / static_cast<double>(amax));
      const auto factor = static_cast<float>(static_cast<double>(reciprocal) * 448);
      const auto stored = static_cast<float>(1 / static_cast<double>(factor));
      if (powers) return divide(PowerAtLeast(stored, -126));
      if (std::isinf(factor)) {
        return divide(plain == 0 ? std::ldexp(1.0, -149) : static_cast<double>(plain));
      }
      return {.divisor = 1, .factor = static_cast<double>(factor), .scale = stored};
    }
    case QuantizeRecipe::kLlmCompressor: {
      const float own = OracleRound(values, plain);
      const double epsilon = values == FloatFormat::kBF16  ? std::ldexp(1.0, -7)
                             : values == FloatFormat::kF16 ? std::ldexp(1.0, -10)
                                                           : std::ldexp(1.0, -23);
      return divide(own == 0 ? epsilon : static_cast<double>(own));
    }
  }
  return {};
}

// The nearest code, the even one of two; 448 beyond it.
inline std::uint8_t NearestCode(float quotient) {
  const std::uint8_t sign = std::signbit(quotient) ? 0x80 : 0;
  const double magnitude = std::abs(static_cast<double>(quotient));
  int best = 0;
  double distance = std::numeric_limits<double>::infinity();
  for (int code = 0; code <= 0x7E; ++code) {
    const double value = static_cast<double>(DecodeE4M3(static_cast<std::uint8_t>(code)));
    const double d = std::abs(magnitude - value);
    if (d < distance || (d == distance && code % 2 == 0)) {
      best = code;
      distance = d;
    }
  }
  if (std::isinf(magnitude)) best = 0x7E;
  return static_cast<std::uint8_t>(sign | best);
}

inline std::uint8_t OracleCode(const QuantizeFormat& format, FloatFormat values,
                               const OracleRule& rule, float value) {
  const auto x = static_cast<double>(value);
  const auto quotient = static_cast<float>(rule.factor != 0 ? x * rule.factor : x / rule.divisor);
  return NearestCode(format.recipe == QuantizeRecipe::kLlmCompressor ? OracleRound(values, quotient)
                                                                     : quotient);
}

// Values in their format, packed.
inline std::vector<std::byte> Pack(FloatFormat format, std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * FloatBytes(format));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::byte* const to = bytes.data() + i * FloatBytes(format);
    if (format == FloatFormat::kF32) {
      std::memcpy(to, &values[i], sizeof(float));
      continue;
    }
    const std::uint16_t bits =
        format == FloatFormat::kBF16 ? EncodeBF16(values[i]) : EncodeF16(values[i]);
    std::memcpy(to, &bits, sizeof(bits));
  }
  return bytes;
}

struct Quantized {
  std::vector<std::uint8_t> codes;
  std::vector<std::byte> scale_bytes;
  std::vector<float> scales;
  Quality quality;
  std::optional<NonfiniteValue> nonfinite;
};

// A whole matrix, panel by panel.
inline Quantized QuantizeMatrix(const QuantizeFormat& format, FloatFormat values,
                                std::span<const std::byte> bytes, std::uint64_t rows,
                                std::uint64_t cols, Nonfinite nonfinite = Nonfinite::kReport) {
  Quantized result;
  result.codes.resize(rows * cols);
  const ScaleFormat stored = StoredScaleFormat(format, values);
  const std::size_t row_bytes =
      cols == 0 ? 0 : ((cols - 1) / format.block.cols + 1) * ScaleBytes(stored);
  for (std::uint64_t row = 0; row < rows; row += std::min(format.block.rows, rows - row)) {
    QuantizePanel panel;
    panel.format = values;
    panel.rows = std::min(format.block.rows, rows - row);
    panel.cols = cols;
    panel.values =
        bytes.subspan(row * cols * FloatBytes(values), panel.rows * cols * FloatBytes(values));
    const std::size_t at = result.scale_bytes.size();
    result.scale_bytes.resize(at + row_bytes);
    const auto found = Quantize(format, panel, nonfinite,
                                std::span(result.codes).subspan(row * cols, panel.rows * cols),
                                std::span(result.scale_bytes).subspan(at), result.quality);
    if (found && !result.nonfinite) {
      result.nonfinite = NonfiniteValue{found->row + row, found->col, found->value};
    }
  }
  DecodeScales(stored, result.scale_bytes, result.scales);
  return result;
}

}  // namespace dsv3::quant

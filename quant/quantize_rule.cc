#include "quant/quantize_rule.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "quant/codec.h"
#include "quant/rounding.h"

namespace dsv3::quant::internal {
namespace {

using Operation = BlockRule::Operation;

constexpr float kSmallestPower = 0x1p-126F;
constexpr float kSmallestE8M0 = 0x1p-127F;
constexpr float kSmallestFloat = 0x1p-149F;
constexpr float kDeepGemmFloor = 1e-4F;
constexpr float kLargestF16 = 65504.0F;
constexpr float kFloatMax = std::numeric_limits<float>::max();

// Above it a quotient rounds to NaN, not to 448, unless it is clamped.
constexpr float kRoundsTo448 = 464.0F;

// Squares of values and of errors beneath and above stay normal floats, and so do sums of them.
constexpr float kSmallestRegular = 0x1p-50F;
constexpr float kLargestRegular = 0x1p40F;

// 2^ceil(log2(scale)), by bits, but at least `smallest`. Precondition: not negative, below 2^127.
float RoundUpToPower(float scale, float smallest) {
  if (scale <= smallest) return smallest;
  if (scale <= kSmallestPower) return kSmallestPower;  // the scale is subnormal
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  const std::uint32_t field = (bits >> kFloatMantissaBits) + ((bits & 0x007F'FFFFU) != 0 ? 1 : 0);
  return std::bit_cast<float>(field << kFloatMantissaBits);
}

float RoundToOwn(FloatFormat own, float value) {
  switch (own) {
    case FloatFormat::kBF16:
      return DecodeBF16(EncodeBF16(value));
    case FloatFormat::kF16:
      return DecodeF16(EncodeF16(value));
    case FloatFormat::kF32:
      break;
  }
  return value;
}

// The distance from 1 to the next larger number.
float Epsilon(FloatFormat format) {
  switch (format) {
    case FloatFormat::kBF16:
      return 0x1p-7F;
    case FloatFormat::kF16:
      return 0x1p-10F;
    case FloatFormat::kF32:
      break;
  }
  return 0x1p-23F;
}

float Quotient(const BlockRule& rule, float value) {
  const float exact =
      rule.operation == Operation::kDivide ? value / rule.operand : value * rule.operand;
  return RoundToOwn(rule.own, exact);
}

BlockRule DivideBy(float scale) {
  return {.operation = Operation::kDivide, .operand = scale, .scale = scale};
}

// The reciprocal of a power of two from 2^-126 on is exact; that of 2^-127 is as well.
BlockRule MultiplyForPower(float scale) {
  return {.operation = Operation::kMultiply, .operand = 1 / scale, .scale = scale};
}

BlockRule DeepSeekRule(ScaleFmt fmt, float amax) {
  if (amax == 0) return DivideBy(1);
  const float scale = amax / kE4M3Max;
  switch (fmt) {
    case ScaleFmt::kUe8m0:
      return MultiplyForPower(RoundUpToPower(scale, kSmallestPower));
    case ScaleFmt::kE8M0:
      return MultiplyForPower(RoundUpToPower(scale, kSmallestE8M0));
    case ScaleFmt::kF32:
      break;
  }
  return DivideBy(std::max(scale, kSmallestFloat));
}

BlockRule DeepGemmRule(ScaleFmt fmt, float amax) {
  float scale = std::max(amax, kDeepGemmFloor) / kE4M3Max;
  if (fmt != ScaleFmt::kF32) scale = RoundUpToPower(scale, kSmallestPower);
  return {.operation = Operation::kMultiply, .operand = 1 / scale, .scale = scale};
}

BlockRule TransformersRule(ScaleFmt fmt, float amax) {
  const float factor = amax == 0 ? 1.0F : (1 / amax) * kE4M3Max;
  if (fmt != ScaleFmt::kF32) return MultiplyForPower(RoundUpToPower(1 / factor, kSmallestPower));
  // Its scale would be zero, and its codes NaN.
  if (std::isinf(factor)) return DeepSeekRule(fmt, amax);
  return {.operation = Operation::kMultiply, .operand = factor, .scale = 1 / factor};
}

BlockRule LlmCompressorRule(FloatFormat own, float amax) {
  // Values that never were in their own format may be too large for it.
  const float largest = own == FloatFormat::kF16 ? kLargestF16 : kFloatMax;
  const float scale = std::min(RoundToOwn(own, amax / kE4M3Max), largest);
  BlockRule rule = DivideBy(scale == 0 ? Epsilon(own) : scale);
  rule.own = own;
  return rule;
}

BlockRule RuleOf(const QuantizeFormat& format, FloatFormat values, float amax) {
  switch (format.recipe) {
    case QuantizeRecipe::kDeepSeek:
      break;
    case QuantizeRecipe::kDeepGemm:
      return DeepGemmRule(format.scale_fmt, amax);
    case QuantizeRecipe::kTransformers:
      return TransformersRule(format.scale_fmt, amax);
    case QuantizeRecipe::kLlmCompressor:
      return LlmCompressorRule(format.own.value_or(values), amax);
  }
  return DeepSeekRule(format.scale_fmt, amax);
}

}  // namespace

BlockRule MakeRule(const QuantizeFormat& format, FloatFormat values, float amax) {
  BlockRule rule = RuleOf(format, values, amax);
  rule.regular = (amax == 0 || amax >= kSmallestRegular) && rule.scale >= kSmallestRegular &&
                 rule.scale <= kLargestRegular && Quotient(rule, amax) <= kRoundsTo448 &&
                 (rule.own == FloatFormat::kF32 || rule.own == values);
  return rule;
}

void StoreScale(ScaleFormat format, float scale, std::byte* to) {
  const auto put = [to](std::uint32_t bits, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) to[i] = static_cast<std::byte>(bits >> (8 * i));
  };
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  switch (format) {
    case ScaleFormat::kBF16:
      return put(EncodeBF16(scale), 2);
    case ScaleFormat::kF16:
      return put(EncodeF16(scale), 2);
    case ScaleFormat::kE8M0:
      return put(bits >> kFloatMantissaBits, 1);  // 2^-127 is a subnormal float: field 0
    case ScaleFormat::kE4M3:
      return put(EncodeE4M3(scale), 1);
    case ScaleFormat::kF32:
      break;
  }
  put(bits, 4);
}

std::uint8_t QuantizeValue(const BlockRule& rule, float value) {
  if (std::isnan(value)) return std::signbit(value) ? 0x80 : 0x00;
  return EncodeE4M3(std::clamp(Quotient(rule, value), -kE4M3Max, kE4M3Max));
}

std::uint8_t QuantizeValue(const BlockRule& rule, float value, Quality& quality) {
  const std::uint8_t code = QuantizeValue(rule, value);
  ++quality.elements;
  if (!IsFiniteBits(std::bit_cast<std::uint32_t>(value))) {
    ++quality.nonfinite;
    return code;
  }
  if (std::abs(Quotient(rule, value)) > kRoundsTo448) ++quality.saturated;
  if (value != 0 && (code & 0x7F) == 0) ++quality.flushed_to_zero;
  const double error =
      std::abs(static_cast<double>(value) - static_cast<double>(DecodeE4M3(code) * rule.scale));
  quality.max_abs_error = std::max(quality.max_abs_error, error);
  quality.sum_squared_error += error * error;
  quality.sum_squares += static_cast<double>(value) * static_cast<double>(value);
  return code;
}

float ValueAt(FloatFormat format, const std::byte* values, std::size_t i) {
  const auto byte = [values](std::size_t at) { return std::to_integer<std::uint32_t>(values[at]); };
  switch (format) {
    case FloatFormat::kBF16:
      return DecodeBF16(static_cast<std::uint16_t>(byte(2 * i) | byte(2 * i + 1) << 8));
    case FloatFormat::kF16:
      return DecodeF16(static_cast<std::uint16_t>(byte(2 * i) | byte(2 * i + 1) << 8));
    case FloatFormat::kF32:
      break;
  }
  return std::bit_cast<float>(byte(4 * i) | byte(4 * i + 1) << 8 | byte(4 * i + 2) << 16 |
                              byte(4 * i + 3) << 24);
}

}  // namespace dsv3::quant::internal

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

// Integer rounding for the codecs: the same on every machine and in every floating-point
// environment. Internal to quant/.
namespace dsv3::quant::internal {

inline constexpr std::uint32_t kFloatSign = 0x8000'0000U;
inline constexpr std::uint32_t kFloatInfinity = 0x7F80'0000U;
inline constexpr std::uint32_t kFloatQuietNan = 0x7FC0'0000U;
inline constexpr int kFloatMantissaBits = 23;
inline constexpr int kFloatBias = 127;

// value / 2^bits rounded to nearest, ties to even; a negative count multiplies. Precondition:
// value < 2^32, bits > -32.
constexpr std::uint64_t RoundShift(std::uint64_t value, int bits) {
  if (bits <= 0) return value << -bits;
  if (bits > 33) return 0;  // less than a quarter
  const std::uint64_t below_half = (std::uint64_t{1} << (bits - 1)) - 1;
  const std::uint64_t odd = (value >> bits) & 1;
  return (value + below_half + odd) >> bits;
}

// significand × 2^exponent, rounded to nearest even in the binary format with the given mantissa
// length and bias, as bits without a sign. Subnormals come out right because the hidden bit adds
// one to the exponent field; so does a carry out of the mantissa. The exponent field is unbounded
// above: the caller compares with its format's largest code. Precondition: significand < 2^32.
constexpr std::uint64_t RoundToFormat(std::uint64_t significand, int exponent, int mantissa_bits,
                                      int bias) {
  if (significand == 0) return 0;
  const int top = static_cast<int>(std::bit_width(significand)) - 1;
  const int field = std::max(exponent + top + bias, 1);
  const int dropped_bits = field - bias - mantissa_bits - exponent;
  return (static_cast<std::uint64_t>(field - 1) << mantissa_bits) +
         RoundShift(significand, dropped_bits);
}

// A finite float is its significand × 2^exponent, sign aside.
struct FloatParts {
  std::uint32_t significand = 0;
  int exponent = 0;
};

constexpr FloatParts SplitFloat(std::uint32_t magnitude_bits) {
  const int field = static_cast<int>(magnitude_bits >> kFloatMantissaBits);
  const std::uint32_t mantissa = magnitude_bits & 0x007F'FFFFU;
  const std::uint32_t hidden = field == 0 ? 0U : 0x0080'0000U;
  return {mantissa | hidden, std::max(field, 1) - kFloatBias - kFloatMantissaBits};
}

}  // namespace dsv3::quant::internal

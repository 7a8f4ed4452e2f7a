#include "quant/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "quant/rounding.h"

namespace dsv3::quant {
namespace {

using internal::kFloatInfinity;
using internal::kFloatQuietNan;
using internal::kFloatSign;

// The float with the value of a finite magnitude of a smaller format; always exact.
constexpr std::uint32_t WidenMagnitude(std::uint32_t magnitude, int mantissa_bits, int bias) {
  const int field = static_cast<int>(magnitude >> mantissa_bits);
  const std::uint32_t hidden = field == 0 ? 0U : 1U << mantissa_bits;
  const std::uint32_t significand = (magnitude & ((1U << mantissa_bits) - 1)) | hidden;
  return static_cast<std::uint32_t>(
      internal::RoundToFormat(significand, std::max(field, 1) - bias - mantissa_bits,
                              internal::kFloatMantissaBits, internal::kFloatBias));
}

// The values of all codes of a format without infinities, whose sign is the highest bit. With
// `fnuz` −0 is the only NaN; without, no code is.
template <int kBits>
constexpr std::array<float, std::size_t{1} << kBits> FiniteValues(int mantissa_bits, int bias,
                                                                  bool fnuz) {
  constexpr std::uint32_t kSignBit = 1U << (kBits - 1);
  std::array<float, std::size_t{1} << kBits> values{};
  for (std::uint32_t code = 0; code < values.size(); ++code) {
    const std::uint32_t sign = (code & kSignBit) << (32 - kBits);
    const std::uint32_t magnitude = WidenMagnitude(code & (kSignBit - 1), mantissa_bits, bias);
    values[code] = std::bit_cast<float>(sign | magnitude);
  }
  if (fnuz) values[kSignBit] = std::bit_cast<float>(kFloatQuietNan);
  return values;
}

constexpr auto kE2M1Values = FiniteValues<4>(1, 1, false);
constexpr auto kE4M3FnuzValues = FiniteValues<8>(3, 8, true);
constexpr auto kE5M2FnuzValues = FiniteValues<8>(2, 16, true);

constexpr std::uint64_t NarrowMagnitude(std::uint32_t magnitude, int mantissa_bits, int bias) {
  const internal::FloatParts parts = internal::SplitFloat(magnitude);
  return internal::RoundToFormat(parts.significand, parts.exponent, mantissa_bits, bias);
}

}  // namespace

float DecodeE4M3(std::uint8_t code) {
  const std::uint32_t sign = (code & 0x80U) << 24;
  const std::uint32_t magnitude = code & 0x7FU;
  const std::uint32_t bits = magnitude == 0x7F ? kFloatQuietNan : WidenMagnitude(magnitude, 3, 7);
  return std::bit_cast<float>(sign | bits);
}

float DecodeE5M2(std::uint8_t code) {
  // E5M2 is the upper byte of binary16.
  return DecodeF16(static_cast<std::uint16_t>(code << 8));
}

float DecodeE4M3Fnuz(std::uint8_t code) { return kE4M3FnuzValues[code]; }
float DecodeE5M2Fnuz(std::uint8_t code) { return kE5M2FnuzValues[code]; }
float DecodeE2M1(std::uint8_t code) { return kE2M1Values[code]; }

float DecodeE8M0(std::uint8_t code) {
  if (code == 0xFF) return std::bit_cast<float>(kFloatQuietNan);
  const std::uint32_t subnormal = 0x0040'0000U;  // 2^-127
  return std::bit_cast<float>(code == 0 ? subnormal : static_cast<std::uint32_t>(code) << 23);
}

float DecodeBF16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

float DecodeF16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7FFFU;
  if (magnitude >= 0x7C00) {  // infinity, or NaN with its payload
    return std::bit_cast<float>(sign | kFloatInfinity | ((magnitude & 0x03FFU) << 13));
  }
  return std::bit_cast<float>(sign | WidenMagnitude(magnitude, 10, 15));
}

std::uint16_t EncodeBF16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kFloatSign;
  const std::uint32_t sign = (bits & kFloatSign) >> 16;
  if (magnitude > kFloatInfinity) return static_cast<std::uint16_t>(sign | 0x7FC0U);
  // BF16 has the exponents of float, so that rounding the bits rounds the value; the carry of the
  // largest finite values gives infinity.
  return static_cast<std::uint16_t>(sign | internal::RoundShift(magnitude, 16));
}

std::uint16_t EncodeF16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kFloatSign;
  const std::uint32_t sign = (bits & kFloatSign) >> 16;
  if (magnitude > kFloatInfinity) return static_cast<std::uint16_t>(sign | 0x7E00U);
  const std::uint64_t rounded = NarrowMagnitude(magnitude, 10, 15);
  return static_cast<std::uint16_t>(sign | std::min<std::uint64_t>(rounded, 0x7C00));
}

std::uint8_t EncodeE4M3(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kFloatSign;
  const std::uint32_t sign = (bits & kFloatSign) >> 24;
  // The code above 448 is NaN; an infinity's exponent and a NaN's lie beyond it as well.
  const std::uint64_t rounded = NarrowMagnitude(magnitude, 3, 7);
  return static_cast<std::uint8_t>(sign | std::min<std::uint64_t>(rounded, 0x7F));
}

}  // namespace dsv3::quant

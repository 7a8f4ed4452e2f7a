#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/rounding.h"
#include "quant/statistics.h"

// The interface between statistics.cc and its kernels. Internal to quant/.
namespace dsv3::quant::internal {

// Squares are summed in this many lanes of floats, element i in lane i mod kLanes, and the lanes
// are emptied into doubles after each group: the same sums on every instruction set, each with so
// few roundings that its relative error stays below kGroup / kLanes × 2^-24.
inline constexpr std::size_t kLanes = 32;
inline constexpr std::size_t kGroup = 512;

// Whether the squares of the largest values fit a float, and those that underflow do not matter.
inline bool IsTame(std::uint32_t absmax_bits) {
  const std::uint32_t field = absmax_bits >> kFloatMantissaBits;
  return absmax_bits == 0 || (field >= 127 - 40 && field <= 127 + 56);
}

// Whether every product with the scale, and the scale times 256, is normal or zero.
inline bool IsPlainScale(float scale) {
  const std::uint32_t field = (std::bit_cast<std::uint32_t>(scale) & ~kFloatSign) >> 23;
  return field >= 127 - 100 && field <= 127 + 100;
}

// For values that are not tame: in double, those that are not finite apart.
FloatStatistics MeasureWild(std::span<const float> values);

float DecodeCode(Fp8Format format, std::uint8_t code);

void DecodeBF16Best(const std::byte* bytes, std::size_t count, float* out);
void DecodeF16Best(const std::byte* bytes, std::size_t count, float* out);
void DecodeScaledBest(Fp8Format format, const ScaledRow& row, float* out);
FloatStatistics MeasureBest(std::span<const float> values);
bool EqualBest(const float* a, const float* b, std::size_t count);

}  // namespace dsv3::quant::internal

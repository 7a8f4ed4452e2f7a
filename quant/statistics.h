#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/dequantize.h"

// Decodes stored numbers to floats, and measures them. All functions are pure, give equal results
// on every instruction set, and need the default floating-point environment.
namespace dsv3::quant {

// Formats of which every value is a float.
enum class StoredFloat { kE4M3, kE5M2, kE8M0, kBF16, kF16, kF32 };

std::size_t ElementBytes(StoredFloat format);

// The values of packed little-endian elements, exactly; NaNs stay NaNs, whatever their bits. The
// elements may begin at any address; `out` has bytes.size() / ElementBytes(format) elements.
void DecodeFloats(StoredFloat format, std::span<const std::byte> bytes, float* out);

// Consecutive codes of one row of a matrix: `column` is that of the first, and scales[0] belongs to
// its block, column / block_cols.
struct ScaledRow {
  std::span<const std::uint8_t> codes;
  std::uint64_t column = 0;
  std::uint64_t block_cols = 1;
  const float* scales = nullptr;
};

// out[i] = float(code) × scale, one float multiplication: the value that DequantizeToBF16 rounds.
void DecodeScaledFloats(Fp8Format format, const ScaledRow& row, float* out);

// Statistics of floats. Adding parts in the same order gives the same result.
struct FloatStatistics {
  std::uint64_t values = 0;
  std::uint64_t nans = 0;
  std::uint64_t infinities = 0;
  float absmax = 0;        // of the finite values
  double sum_squares = 0;  // of the finite values; relative error below 1e-5
  // Whether all values have the same bits, those of `first`.
  bool constant = true;
  float first = 0;

  void Add(const FloatStatistics& next);
};

FloatStatistics MeasureFloats(std::span<const float> values);

// The scalar meaning of MeasureFloats: the oracle of its tests.
FloatStatistics MeasureFloatsScalar(std::span<const float> values);

// Whether all values are equal, NaNs to each other and −0 to +0. The spans are equally long.
bool EqualFloats(std::span<const float> a, std::span<const float> b);

}  // namespace dsv3::quant

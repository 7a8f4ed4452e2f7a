#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Block-scaled FP8 → BF16.
namespace dsv3::quant {

struct BlockShape {
  std::uint64_t rows = 128;
  std::uint64_t cols = 128;
  friend bool operator==(const BlockShape&, const BlockShape&) = default;
};

enum class Fp8Format { kE4M3, kE5M2 };

enum class ScaleFormat { kF32, kBF16, kE8M0, kF16, kE4M3 };

struct DequantizeCounts {
  std::uint64_t nan_codes = 0;  // FP8 NaN codes met; each became a BF16 NaN
};

// Consecutive elements from `first` on of a row-major matrix with `cols` columns, where element i
// lies in row i / cols; of FP8, one for each byte of `codes` (codes.h has other codes). `scales`
// holds the scale rows from the one of the first element's row (first / cols / block.rows) to the
// one of the last, each of ceil(cols / block.cols) floats, and so does `zeros`, or it is empty.
struct DequantizeSpan {
  std::span<const std::uint8_t> codes;
  std::uint64_t first = 0;
  std::uint64_t cols = 0;
  BlockShape block;
  std::span<const float> scales;
  std::span<const float> zeros = {};  // what the codes mean 0 with; never of FP8
};

// out[i] = BF16(float(code) × scale), one float multiplication and one rounding to nearest even
// (DeepSeek's fp8_cast_bf16 formula). Any float is a legal scale, NaN and infinities included. A
// NaN code gives 0x7FC0 with the code's sign whatever the scale; NaN that the scale makes gives
// 0x7FC0 with the sign of the product's operands combined by xor. Bit-identical on every
// instruction set and in every floating-point environment. Codes and results may begin
// at any element. `out` has codes.size() elements.
// Preconditions: cols > 0, block.rows > 0, block.cols > 0.
void DequantizeE4M3ToBF16(const DequantizeSpan& in, std::uint16_t* out, DequantizeCounts& counts);

// The same for F8_E5M2 codes, whose infinities multiply as IEEE's do: infinite with the xor of both
// signs, NaN with that sign where the scale is 0 or NaN.
void DequantizeE5M2ToBF16(const DequantizeSpan& in, std::uint16_t* out, DequantizeCounts& counts);

// Either of the two.
void DequantizeToBF16(Fp8Format format, const DequantizeSpan& in, std::uint16_t* out,
                      DequantizeCounts& counts);

// The scalar meanings: the oracles of their tests.
void DequantizeE4M3ToBF16Scalar(const DequantizeSpan& in, std::uint16_t* out,
                                DequantizeCounts& counts);
void DequantizeE5M2ToBF16Scalar(const DequantizeSpan& in, std::uint16_t* out,
                                DequantizeCounts& counts);

// Replaces `out` by the scales in `bytes`: packed, little-endian, whole.
void DecodeScales(ScaleFormat format, std::span<const std::byte> bytes, std::vector<float>& out);

// The instruction set that the kernels use on this machine ("AVX3", "AVX2", "SSE4", "SSSE3",
// "SCALAR" …).
const char* KernelTargetName();

}  // namespace dsv3::quant

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "quant/codes.h"

// The interface between codes.cc and the kernels. Internal to quant/.
namespace dsv3::quant::internal {

// Walks the runs of a span that lie in one row and one block, so that they have one scale.
class ScaleRuns {
 public:
  ScaleRuns(const DequantizeSpan& in, std::uint64_t elements)
      : in_(in),
        blocks_per_row_((in.cols - 1) / in.block.cols + 1),
        left_(elements),
        column_(in.first % in.cols),
        block_(column_ / in.block.cols),
        rows_left_(in.block.rows - in.first / in.cols % in.block.rows) {
    Measure(in.block.cols - column_ % in.block.cols);
  }

  std::uint64_t size() const { return size_; }  // elements of the run; 0 behind the last
  std::uint64_t scale() const { return scale_row_ + block_; }  // position in the span's scales

  void Next() {
    left_ -= size_;
    column_ += size_;
    if (column_ < in_.cols) {
      ++block_;
    } else {
      column_ = 0;
      block_ = 0;
      if (--rows_left_ == 0) {
        rows_left_ = in_.block.rows;
        scale_row_ += blocks_per_row_;
      }
    }
    Measure(in_.block.cols);
  }

 private:
  void Measure(std::uint64_t in_block) { size_ = std::min({in_block, in_.cols - column_, left_}); }

  const DequantizeSpan& in_;
  const std::uint64_t blocks_per_row_;
  std::uint64_t left_;
  std::uint64_t column_;
  std::uint64_t block_;
  std::uint64_t rows_left_;
  std::uint64_t scale_row_ = 0;
  std::uint64_t size_ = 0;
};

inline float ZeroOf(const DequantizeSpan& in, std::uint64_t scale) {
  return in.zeros.empty() ? 0.0F : in.zeros[scale];
}

// The code of an element of a span, counted from the span's first.
inline std::uint8_t CodeAt(CodeFormat format, const DequantizeSpan& in, std::uint64_t element) {
  if (CodeBits(format) == 8) return in.codes[element];
  const std::uint8_t both = in.codes[element / 2];
  return element % 2 == 0 ? both & 0xFU : static_cast<std::uint8_t>(both >> 4);
}

inline std::uint64_t ElementsOf(CodeFormat format, const DequantizeSpan& in) {
  return std::uint64_t{in.codes.size()} * (8 / CodeBits(format));
}

// BF16 of a float, every NaN as 0x7FC0.
inline std::uint16_t RoundToBF16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFF'FFFFU) > 0x7F80'0000U) return 0x7FC0;
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

// One element: BF16((value − zero) × scale). Needs the default floating-point environment.
std::uint16_t ScaleToBF16(float value, float zero, float scale);

// All of a span whose codes are not FP8, in the default floating-point environment.
void DequantizeCodesBest(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements,
                         bool stream, std::uint16_t* out);
void DequantizeCodesToFloat(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements,
                            float* out);
void ScaleScales(TensorScaleUse use, float tensor_scale, float* scales, std::size_t count);

// The values of the sixteen codes of a format of four bits.
const float* ValuesOfCodes(CodeFormat format);

}  // namespace dsv3::quant::internal

#include "quant/quantize.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/codec.h"

namespace dsv3::quant {
namespace {

// Rows and columns [row_begin, row_end) × [col_begin, col_end) of a matrix.
struct Block {
  std::uint64_t row_begin;
  std::uint64_t row_end;
  std::uint64_t col_begin;
  std::uint64_t col_end;
};

// The largest magnitude: for finite values the order of the bits without their sign.
std::uint16_t MaxMagnitude(std::span<const std::uint16_t> weights, std::uint64_t cols,
                           const Block& block) {
  std::uint16_t largest = 0;
  for (std::uint64_t row = block.row_begin; row < block.row_end; ++row) {
    for (std::uint64_t col = block.col_begin; col < block.col_end; ++col) {
      const auto magnitude = static_cast<std::uint16_t>(weights[row * cols + col] & 0x7FFFU);
      largest = std::max(largest, magnitude);
    }
  }
  return largest;
}

void EncodeBlock(std::span<const std::uint16_t> weights, std::uint64_t cols, const Block& block,
                 float scale, std::span<std::uint8_t> codes) {
  for (std::uint64_t row = block.row_begin; row < block.row_end; ++row) {
    for (std::uint64_t col = block.col_begin; col < block.col_end; ++col) {
      const std::uint64_t at = row * cols + col;
      const float quotient = DecodeBF16(weights[at]) / scale;
      codes[at] = EncodeE4M3(std::clamp(quotient, -kE4M3Max, kE4M3Max));
    }
  }
}

// The end of the block that begins at `begin`, in a dimension of `size`.
std::uint64_t BlockEnd(std::uint64_t begin, std::uint64_t block, std::uint64_t size) {
  return begin + std::min(block, size - begin);
}

}  // namespace

void QuantizeBF16ToE4M3(std::span<const std::uint16_t> weights, std::uint64_t rows,
                        std::uint64_t cols, BlockShape block, std::span<std::uint8_t> codes,
                        std::span<float> scales) {
  std::size_t next_scale = 0;
  std::uint64_t row_end = 0;
  for (std::uint64_t row = 0; row < rows; row = row_end) {
    row_end = BlockEnd(row, block.rows, rows);
    std::uint64_t col_end = 0;
    for (std::uint64_t col = 0; col < cols; col = col_end) {
      col_end = BlockEnd(col, block.cols, cols);
      const Block part{row, row_end, col, col_end};
      const std::uint16_t amax = MaxMagnitude(weights, cols, part);
      const float scale = amax == 0 ? 1.0F : DecodeBF16(amax) / kE4M3Max;
      EncodeBlock(weights, cols, part, scale, codes);
      scales[next_scale++] = scale;
    }
  }
}

}  // namespace dsv3::quant

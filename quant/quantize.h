#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/dequantize.h"

// BF16 → block-scaled FP8, DeepSeek's formula: per block s = amax / 448 in float (1 for an all-zero
// block), code = E4M3(clamp(x / s, ±448)) with true division and round to nearest even.
namespace dsv3::quant {

// `weights` is row-major [rows, cols] BF16, finite. Writes rows × cols codes and
// ceil(rows / block.rows) × ceil(cols / block.cols) scales.
void QuantizeBF16ToE4M3(std::span<const std::uint16_t> weights, std::uint64_t rows,
                        std::uint64_t cols, BlockShape block, std::span<std::uint8_t> codes,
                        std::span<float> scales);

}  // namespace dsv3::quant

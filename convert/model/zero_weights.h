#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "formats/dtype.h"
#include "formats/shape.h"

// Weights that are zero, which a download with holes leaves: the file has its full length, and the
// parts that never came are zeros.
namespace dsv3::convert {

// Whether a tensor is a weight matrix of floats, FP8 codes included, by its name, dtype and shape:
// two dimensions or more, and "weight", "gate_up_proj" or "down_proj" last in the name. In a
// trained model none of these is all zero. Biases and norms may be.
bool IsWeightMatrix(std::string_view name, formats::Dtype dtype, const formats::Shape& shape);

// Whether a tensor holds the integer codes of a weight matrix (U8, I8 or I32: FP4, INT4 and INT8 in
// every form that form_table.h knows), by the same three. A zero byte of it is a legal value, +0 or
// the least one, but a trained matrix has no long run of one value.
bool IsCodeMatrix(std::string_view name, formats::Dtype dtype, const formats::Shape& shape);

// Whether floats of this many bytes each, FP8 codes among them, are all zero, of either sign.
bool AreZero(std::size_t float_bytes, std::span<const std::byte> bytes);

// The code 0 of E8M0, as which a part of a scale's file reads that was never written. Quantisers
// write it for blocks of zeros alone.
inline constexpr float kLeastE8M0 = 0x1p-127F;

// Whether a quantiser may have written this scale for a block of zeros: 1; an epsilon of BF16 or
// FP8; or what a floor of the largest magnitude of 1e-4 or less gives, rounded up to a power of
// two. Any other scale says that its block had values. True for zero, false for NaN and negative
// numbers. The tools' scales: DeepSeek's kernels, transformers and TransformerEngine 1; DeepGEMM
// and vLLM 1e-4/448; slime 1e-12/448; compressed-tensors 2^-7; MX formats 2^-127.
bool IsScaleOfZeros(float scale);

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/quantize.h"

// Wider floats → BF16. Pure and thread-safe; the same bits on every instruction set.
namespace dsv3::quant {

// out[i] = EncodeBF16 of the i-th value: round to nearest, ties to even; a NaN becomes 0x7FC0 with
// its sign. `bytes` are packed little-endian elements of `format`, F32 or F16 (BF16 is copied), at
// any address.
void CastToBF16(FloatFormat format, std::span<const std::byte> bytes, std::uint16_t* out);

// The scalar meaning: the oracle of its tests.
void CastToBF16Scalar(FloatFormat format, std::span<const std::byte> bytes, std::uint16_t* out);

}  // namespace dsv3::quant

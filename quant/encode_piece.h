#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/encode.h"
#include "quant/quality.h"

// The vector kernels that all rules of encode.h share. Internal to quant/. All need the default
// floating-point environment.
namespace dsv3::quant::internal {

// Raises amax[i], the bits of a magnitude, to that of the largest in block i of a row; NaN and
// infinity give bits of at least infinity's.
void RaiseAmax(const float* row, std::uint64_t cols, std::uint64_t block_cols, std::uint32_t* amax);

// codes[2i] in the low half of byte i and codes[2i + 1] in the high half; `count` is even, the
// codes are below 16.
void PackHalves(const std::uint8_t* codes, std::size_t count, std::uint8_t* packed);

// Adds the errors of values whose codes mean `decoded`: sums, the largest, and those that became
// zero.
void AddErrors(const float* values, const float* decoded, std::uint64_t count, Quality& quality);

}  // namespace dsv3::quant::internal

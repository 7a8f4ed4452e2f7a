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

// A row and what its codes mean.
struct EncodedRow {
  const float* values = nullptr;
  const float* decoded = nullptr;
  const float* scales = nullptr;  // one for each block, that of the tensor included
  std::uint64_t cols = 0;
  std::uint64_t block_cols = 1;
  float smallest = 0;  // EncodeRule's
  float largest = 0;
};
// Adds the errors of a row, not its blocks.
void MeasureRow(const EncodedRow& row, Quality& quality);

}  // namespace dsv3::quant::internal

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/dequantize.h"
#include "quant/stream_stores.h"

// The interface between dequantize.cc, which cuts a span into pieces, and the kernels that compute
// them. Internal to quant/.
namespace dsv3::quant::internal {

// The most blocks side by side in a piece: their tables take 16 KiB and stay in the L1 cache.
inline constexpr std::uint64_t kMaxPieceBlocks = 512;

// Consecutive elements of one row of scales. A piece of more than one matrix row starts its scales
// at block 0; within one row they start at the block of the first element.
struct DequantizePiece {
  Fp8Format format = Fp8Format::kE4M3;
  std::span<const std::uint8_t> codes;
  std::span<const float> scales;
  std::uint64_t first_block = 0;  // the block of scales[0] in its row
  std::uint64_t column = 0;       // of the first element
  std::uint64_t cols = 0;
  std::uint64_t block_cols = 0;
};

// Runs the piece on the best instruction set of this machine. With `stream` the results go past
// the caches; they are visible to other threads through any later synchronisation.
void DequantizePieceBest(const DequantizePiece& piece, bool stream, std::uint16_t* out,
                         DequantizeCounts& counts);

// The name of that instruction set.
const char* BestTargetName();

// BF16(float(code) × scale) as DequantizeToBF16 defines it, by exact integer arithmetic.
std::uint16_t DequantizeCode(Fp8Format format, std::uint8_t code, float scale);

}  // namespace dsv3::quant::internal

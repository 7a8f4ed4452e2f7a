#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/encode.h"
#include "quant/quality.h"
#include "quant/quantize_tile.h"

// The interface between encode.h's functions, its rules and their vector kernels. Internal to
// quant/. All need the default floating-point environment.
namespace dsv3::quant::internal {

// One number for each block side by side in a tile. Kernels read whole vectors, so there is room
// behind the last.
using BlockFloats = std::array<float, kMaxTileBlocks + 64>;

// Blocks whose scales are to be made.
struct ScaleRun {
  const float* amax = nullptr;  // their largest magnitudes, those of BF16 numbers
  std::size_t count = 0;        // at most kMaxTileBlocks
  float tensor_scale = 1;
  std::byte* stored = nullptr;  // the results: the scales as they are stored, packed,
  float* divisors = nullptr;    // and what the codes are made with, a BlockFloats
};

// A run of values whose codes are to be made: neighbours in a row, in whole blocks (the last one
// may be shorter).
struct EncodeRun {
  FloatFormat format = FloatFormat::kBF16;
  const std::byte* values = nullptr;
  std::size_t size = 0;
  std::uint64_t ahead = 0;     // as in QuantizeTile
  std::size_t block_cols = 0;  // values that share a scale
  // Of each block, with room for a vector behind the last.
  const float* scales = nullptr;
  const float* reciprocals = nullptr;  // 1 / scale
  bool largest = true;                 // whether an error may exceed quality.max_abs_error
};

// The kernels that rules name: integers rounded from quotients in the values' own format, or in
// F32; E2M1 of divisions and of products with powers of two, E4M3 of the latter. They write packed
// codes, and add the errors but no elements and no blocks to `quality`. All blocks must be regular.
void EncodeOwnInt8Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality);
void EncodeOwnInt4Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality);
void EncodeFloatInt8Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality);
void EncodeE2M1Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality);
void EncodePowerE2M1Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality);
void EncodePowerE2M1DownRun(const EncodeRun& run, std::uint8_t* codes, Quality& quality);
void EncodePowerE4M3Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality);

// scale_of of the rules with these names, for several blocks.
void OwnInt8Scales(const ScaleRun& run);
void OwnInt4Scales(const ScaleRun& run);
void FloatInt8Scales(const ScaleRun& run);
void CarriedFp4Scales(const ScaleRun& run);
void CarriedFp8Scales(const ScaleRun& run);
void CeiledFp4Scales(const ScaleRun& run);
void CeiledFp8Scales(const ScaleRun& run);
void ModelOptGroupScales(const ScaleRun& run);
void LlmCompressorGroupScales(const ScaleRun& run);

// A block is regular where the kernels are exact: no value is beyond the codes, no quotient of a
// value other than zero is zero, even rounded to the values' own format, and the squares of the
// values and errors that matter are normal floats.
inline constexpr float kLeastRegularAmax = 0x1p-50F;
inline constexpr float kLeastRegularScale = 0x1p-127F;  // its reciprocal is finite
inline constexpr float kMostRegularScale = 1;

struct BlockScales {
  bool all_regular = false;
  float largest = 0;
};

// Writes 1 / scale of each block that is regular, which is never 0, and 0 of the others. `most`
// scales are the largest magnitude that is not beyond the codes.
BlockScales TakeReciprocals(const float* amax, const float* scales, std::size_t count, float most,
                            float* reciprocals);

// Copies past the caches where whole cache lines fit. FinishStreams must follow before another
// thread gets the copies.
void StreamBytes(const std::uint8_t* from, std::size_t size, std::uint8_t* to);
void FinishStreams();

// By the rule's meaning, value by value: packed codes of values of one row that share a scale, the
// first at an even place. Adds all but elements and blocks to `quality`. `scale` is what a reader
// multiplies the codes by.
void EncodeByMeaning(const EncodeRule& rule, FloatFormat format, std::span<const std::byte> values,
                     float divisor, float scale, std::uint8_t* codes, Quality& quality);

}  // namespace dsv3::quant::internal

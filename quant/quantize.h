#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quant/dequantize.h"
#include "quant/quality.h"

// BF16, F16 or F32 → block-scaled F8_E4M3, by the formulas of the tools that write such
// checkpoints. docs/numerics.md has each formula and the result for zero blocks, subnormal numbers
// and NaN.
//
// Codes and scales are bit-identical on every instruction set and in every floating-point
// environment (rounding mode, FTZ, DAZ). All functions are thread-safe.
namespace dsv3::quant {

// The tool whose formula is used. amax is the largest magnitude of a block, fl() a rounding to
// float.
enum class QuantizeRecipe {
  kDeepSeek,      // s = fl(amax / 448); code = E4M3(clamp(fl(x / s), ±448))
  kDeepGemm,      // s = fl(max(amax, 1e-4) / 448); code = E4M3(fl(x · fl(1 / s)))
  kTransformers,  // m = fl(fl(1 / amax) · 448), s = fl(1 / m); code = E4M3(clamp(fl(x · m), ±448))
  kLlmCompressor,  // in the values' own format: s = own(amax / 448); code = E4M3(clamp(own(x / s)))
};

// --scale-fmt: the form of the scale in which it is used and stored.
enum class ScaleFmt {
  kF32,    // as the recipe makes it
  kUe8m0,  // rounded up to a power of two, at least 2^-126; stored as F32
  kE8M0,   // the same, at least 2^-127; stored as F8_E8M0
};

// The form in which blocks are given. Per-row and per-tensor scales are blocks of one row or one
// tensor.
enum class BlockForm { kBlock, kRow, kTensor };

// The number format of the values to be quantised.
enum class FloatFormat { kBF16, kF16, kF32 };

// Bytes of one value.
std::size_t FloatBytes(FloatFormat format);

struct QuantizeFormat {
  QuantizeRecipe recipe = QuantizeRecipe::kDeepSeek;
  ScaleFmt scale_fmt = ScaleFmt::kF32;
  BlockShape block = {};  // {1, cols} for scales per row, {rows, cols} for one scale per tensor
  // The format that kLlmCompressor takes for the values' own, where that is another: of BF16 values
  // that were F16 once.
  std::optional<FloatFormat> own = {};
};

// Why a recipe does not have this scale format and form of blocks, to be put behind "recipe NAME":
// "stores …". Empty when it has them.
std::string_view WhyRefused(QuantizeRecipe recipe, ScaleFmt scale_fmt, BlockForm form);

// How scales are stored: kLlmCompressor stores them in the values' own format, all others as
// `scale_fmt` says.
ScaleFormat StoredScaleFormat(const QuantizeFormat& format, FloatFormat values);

// Bytes of one stored scale.
std::size_t ScaleBytes(ScaleFormat format);

// The treatment of NaN and infinite values.
enum class Nonfinite {
  kReport,    // the first one is returned; all outputs are unspecified then
  kSaturate,  // they take no part in amax; NaN becomes a zero and infinity 448, each of its sign
};

// The first NaN or infinite value in row-major order, by its place in the panel.
struct NonfiniteValue {
  std::uint64_t row = 0;
  std::uint64_t col = 0;
  float value = 0;
};

// Up to block.rows whole rows of a row-major matrix, beginning where a row of blocks begins.
// values.size() is rows × cols × FloatBytes(format); little-endian, no alignment needed.
struct QuantizePanel {
  FloatFormat format = FloatFormat::kBF16;
  std::span<const std::byte> values;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
};

// Writes rows × cols codes, and ceil(cols / block.cols) scales as they are stored (little-endian,
// ScaleBytes each), and adds to `quality`.
// Preconditions: block.rows >= panel.rows, block.cols > 0, the recipe has the format.
std::optional<NonfiniteValue> Quantize(const QuantizeFormat& format, const QuantizePanel& panel,
                                       Nonfinite nonfinite, std::span<std::uint8_t> codes,
                                       std::span<std::byte> scales, Quality& quality);

// The same for an edited copy of a quantised matrix: blocks whose original codes dequantise
// (DequantizeE4M3ToBF16) to exactly the bits of the values keep their original codes and scale,
// NaN included; the others are quantised by `format`. The values are BF16; `original_codes` and
// `original_scales` have the sizes and formats of the results, and may not overlap them.
std::optional<NonfiniteValue> QuantizeLike(const QuantizeFormat& format, const QuantizePanel& panel,
                                           std::span<const std::uint8_t> original_codes,
                                           std::span<const std::byte> original_scales,
                                           Nonfinite nonfinite, std::span<std::uint8_t> codes,
                                           std::span<std::byte> scales, Quality& quality);

// For panels that are too long to be held: the same in two passes over parts of one panel, cut at
// any element. First UpdateAmax (or UpdateAmaxLike) for all parts, then StoreScales once, then
// QuantizePart for all parts. The codes, the scales and all counts equal those of one Quantize.

// Elements [first, first + values.size() / FloatBytes(format)) of a panel with `cols` columns.
struct PanelPart {
  FloatFormat format = FloatFormat::kBF16;
  std::span<const std::byte> values;
  std::uint64_t first = 0;
  std::uint64_t cols = 0;
};

// The state of a block before its codes are made. A new one is that of an empty block.
struct BlockState {
  std::uint32_t amax_bits = 0;  // of the largest finite magnitude, as float
  bool nonfinite = false;       // has a NaN or an infinity
  bool edited = false;          // UpdateAmaxLike: some value is not what the original has
};

// Adds the part to `blocks`, the states of the panel's ceil(cols / block_cols) blocks. Returns the
// first NaN or infinity of the part with `nonfinite` kReport. Parts may be taken in any order;
// states of parts taken apart are joined by JoinStates.
std::optional<NonfiniteValue> UpdateAmax(std::uint64_t block_cols, const PanelPart& part,
                                         Nonfinite nonfinite, std::span<BlockState> blocks);

// The originals of a part: its codes, and all scales of the panel.
struct OriginalPart {
  std::span<const std::uint8_t> codes;
  std::span<const std::byte> scales;
  ScaleFormat scale_format = ScaleFormat::kF32;
};

// UpdateAmax, which also marks the blocks that differ from the original. NaN and infinities are not
// reported here: QuantizePart reports those that are not in an unedited block.
void UpdateAmaxLike(std::uint64_t block_cols, const PanelPart& part, const OriginalPart& original,
                    std::span<BlockState> blocks);

// Adds the states from other parts of the same panel.
void JoinStates(std::span<const BlockState> others, std::span<BlockState> blocks);

// Writes the stored scales of the panel's blocks. With `original_scales` those of blocks that were
// not edited are copied.
void StoreScales(const QuantizeFormat& format, FloatFormat values,
                 std::span<const BlockState> blocks, std::span<std::byte> scales);
void StoreScalesLike(const QuantizeFormat& format, FloatFormat values,
                     std::span<const BlockState> blocks, std::span<const std::byte> original_scales,
                     std::span<std::byte> scales);

// Writes the part's codes and adds to `quality`; a block is counted with the part that has its
// first element. With `original` the codes of blocks that were not edited are copied.
std::optional<NonfiniteValue> QuantizePart(const QuantizeFormat& format, const PanelPart& part,
                                           std::span<const BlockState> blocks, Nonfinite nonfinite,
                                           const OriginalPart* original,
                                           std::span<std::uint8_t> codes, Quality& quality);

}  // namespace dsv3::quant

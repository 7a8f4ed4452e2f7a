#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "quant/codes.h"
#include "quant/dequantize.h"
#include "quant/quality.h"
#include "quant/quantize.h"

// BF16, F16 or F32 → codes and scales of any form, by the formulas of the tools that write such
// checkpoints. docs/numerics.md has each formula.
//
// Codes and scales are bit-identical on every instruction set and in every floating-point
// environment. All functions are thread-safe.
namespace dsv3::quant {

namespace internal {
struct EncodeRun;
struct ScaleRun;
}  // namespace internal

// The scale of a block.
struct BlockScale {
  std::uint32_t stored = 0;  // its bits as they are stored, in the lowest bytes
  float divisor = 1;  // what codes are made with, and what a reader multiplies them by in the end
};

// How one tool makes the codes and scales of one form. The rules are constants, one for each tool
// and form; `Encode` does for all of them what they have in common. The functions of a rule need
// the default floating-point environment, in which `Encode` calls them.
struct EncodeRule {
  const char* name = "";  // "llm-compressor int8": names the rule in a job's fingerprint
  CodeFormat codes = CodeFormat::kI8;
  BlockShape block = {};                  // of the values that share a scale; 0 columns: whole rows
  std::optional<ScaleFormat> scale = {};  // as it is stored; nothing: in the values' own format
  // The scale of a block whose largest magnitude is `amax`. `tensor_scale` is 1 where the rule has
  // none.
  BlockScale (*scale_of)(float amax, FloatFormat own, float tensor_scale) = nullptr;
  // The code of one value: the rule's meaning, and the oracle of `encode_run`.
  std::uint8_t (*code_of)(float value, float divisor, FloatFormat own) = nullptr;
  // The vector kernels of the two: the scales of several blocks of BF16 values, and the codes of a
  // run of values with their errors.
  void (*scales_of)(const internal::ScaleRun& run) = nullptr;
  void (*encode_run)(const internal::EncodeRun& run, std::uint8_t* codes,
                     Quality& quality) = nullptr;
  // Values / scale below `smallest` or above `largest` count as saturated: they are a step or more
  // beyond the outermost codes.
  float smallest = 0;
  float largest = 0;
  // The scale of a tensor (or of several together) whose largest magnitude is `amax`, as it is
  // stored in F32, and how it applies to the scales; nullptr: there is none.
  float (*tensor_scale_of)(float amax, FloatFormat own) = nullptr;
  TensorScaleUse tensor_scale_use = TensorScaleUse::kMultiply;
  // Of FP8 in blocks, which quantize.h makes; then no function is set.
  std::optional<QuantizeFormat> fp8 = {};
};

// llm-compressor's INT8 with a scale for each row, b(amax / 127.5) in the values' own format b;
// v = b(x / s), clamped to [-128, 127], rounded to the nearest, ties to even. A row of zeros has
// the format's epsilon.
const EncodeRule& LlmCompressorInt8();
// Its INT4 with a scale for 32 columns, b(amax / 7.5), in offset binary; [-8, 7].
const EncodeRule& LlmCompressorInt4();
// INT8 with an F32 scale for 128 × 128 values, fl(amax / 127); a block of zeros has 1.
const EncodeRule& BlockInt8();
// FP8 as bf16-to-fp8 makes it without options, and with --recipe llm-compressor.
const EncodeRule& DeepSeekFp8();
const EncodeRule& LlmCompressorFp8();

// E2M1 codes are those of v = fl(x / divisor), ties to even; a v below zero that rounds to zero
// becomes −0, and −0 becomes +0.
//
// ModelOpt's NVFP4: the tensor's scale t = fl(amax / 2688), 1 for zeros alone; a group of 16
// columns has e4m3(fl(amax / fl(6 · t))) from 2^-9 to 448, or 1 where that is 0; divisor fl(s · t).
const EncodeRule& ModelOptNvFp4();
// llm-compressor's: t = b(b(1 / amax) · 2688), 1 where that is infinite; a group has
// e4m3(fl(t · b(amax / 6))), 448 at most and 0.125 where that is 0; divisor fl(s / t).
const EncodeRule& LlmCompressorNvFp4();
// llm-compressor's MXFP4 and MXFP8: E8M0 scales for 32 columns, the power of two at or below
// amax / 4 (amax / 256), twice that where amax is at least 1.75 of a power of two; 2^-127 at least.
// E4M3 codes are those of v clamped to ±448, and E2M1 codes those of b(v).
const EncodeRule& LlmCompressorMxFp4();
const EncodeRule& LlmCompressorMxFp8();
// ModelOpt's: 2^ceil(log2 fl(amax / 6)), or / 448. Its E2M1 codes take the smaller of two that are
// equally near, and a zero of either sign becomes −0.
const EncodeRule& ModelOptMxFp4();
const EncodeRule& ModelOptMxFp8();

// The rule's block in a matrix with `cols` columns.
BlockShape BlockOf(const EncodeRule& rule, std::uint64_t cols);
// How the rule stores the scales of values in this format.
ScaleFormat StoredScaleOf(const EncodeRule& rule, FloatFormat own);

// Whole rows of a row-major matrix, beginning where a row of blocks begins, any number of them.
struct EncodePanel {
  FloatFormat format = FloatFormat::kBF16;
  std::span<const std::byte> values;  // little-endian, no alignment needed
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  float tensor_scale = 1;  // of the rule's tensor_scale_of
};

// Writes the codes, packed as codes.h says, and the scales as they are stored, ceil(cols / block
// columns) for each row of blocks, and adds to `quality`. Returns the first NaN or infinite value
// in row-major order by its place in the panel; all outputs are unspecified then.
// Preconditions: rows > 0; with codes of four bits cols is even.
std::optional<NonfiniteValue> Encode(const EncodeRule& rule, const EncodePanel& panel,
                                     std::span<std::uint8_t> codes, std::span<std::byte> scales,
                                     Quality& quality);

// The same by scale_of and code_of, value by value: the oracle of its tests. Not of FP8 in blocks.
std::optional<NonfiniteValue> EncodeScalar(const EncodeRule& rule, const EncodePanel& panel,
                                           std::span<std::uint8_t> codes,
                                           std::span<std::byte> scales, Quality& quality);

}  // namespace dsv3::quant

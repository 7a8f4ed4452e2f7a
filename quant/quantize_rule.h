#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/quality.h"
#include "quant/quantize.h"

// The scalar truth of quantisation: how a block's amax makes its scale, and how a value becomes a
// code. Plain float arithmetic; callers hold a DefaultFloatEnvironment. Internal to quant/.
namespace dsv3::quant::internal {

// From a block's values to its codes: code = E4M3(clamp(own(fl(x / operand)), ±448)), or with
// fl(x · operand).
struct BlockRule {
  enum class Operation : std::uint8_t { kDivide, kMultiply };
  Operation operation = Operation::kDivide;
  // The format that the quotient is rounded to before the code is; kF32 rounds no further.
  FloatFormat own = FloatFormat::kF32;
  // Whether the kernels may do the block: no value is clamped to other than what rounding gives,
  // the squares of values and errors are normal floats, and `own` is kF32 or the values' format.
  bool regular = false;
  float operand = 1;
  float scale = 1;  // as stored
};

// Precondition: amax is finite and not negative.
BlockRule MakeRule(const QuantizeFormat& format, FloatFormat values, float amax);

// Writes a stored scale; it is one that MakeRule made for that format.
void StoreScale(ScaleFormat format, float scale, std::byte* to);

// The code of any value. NaN gives a zero, infinity 448, each with its sign.
std::uint8_t QuantizeValue(const BlockRule& rule, float value);

// The same, and adds all but `blocks` to `quality`.
std::uint8_t QuantizeValue(const BlockRule& rule, float value, Quality& quality);

// Element i of packed values.
float ValueAt(FloatFormat format, const std::byte* values, std::size_t i);

inline bool IsFiniteBits(std::uint32_t float_bits) {
  return (float_bits & 0x7F80'0000U) != 0x7F80'0000U;
}

}  // namespace dsv3::quant::internal

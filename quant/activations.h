#pragma once

#include <cstddef>
#include <span>

// Rounds activations as inference engines do before a product. All functions are pure and
// thread-safe, need the default floating-point environment, and give the same bits on every
// instruction set; a NaN stays a NaN, whose bits are not defined.
namespace dsv3::quant {

// Columns that share a scale.
inline constexpr std::size_t kActivationGroup = 128;

// Quantises the activations of one token to E4M3, in groups of 128 columns; the last group may be
// shorter. The scale of a group is s = absmax / 448, with `ue8m0` rounded up to a power of two; it
// is 1 where the group is zero, or so small that s is zero. The code of x is E4M3(x / s), rounded
// to nearest even, with x / s limited to ±448. row[i] becomes the value of its code, without the
// scale; scales[g] becomes s of group g. A group with a NaN becomes NaNs.
void QuantizeActivations(std::span<float> row, bool ue8m0, float* scales);

// Rounds each value to the nearest BF16, ties to even. Overflow gives infinity.
void RoundToBF16(std::span<float> values);

// The scalar meanings: the oracles of the tests.
void QuantizeActivationsScalar(std::span<float> row, bool ue8m0, float* scales);
void RoundToBF16Scalar(std::span<float> values);

}  // namespace dsv3::quant

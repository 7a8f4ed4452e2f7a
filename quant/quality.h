#pragma once

#include <algorithm>
#include <cstdint>

namespace dsv3::quant {

// The errors of a quantisation: x are the inputs, y the dequantised codes (code × scale in float,
// not rounded further). Blocks that keep an original's codes dequantise to exactly their values, so
// that their errors are zero. Counts and the largest error are the same on every instruction set.
// Sums are made of float sums over short runs: their relative error is below 1e-5, and adding in
// another order may change their last digits, so a caller that needs equal digits adds in one
// order.
struct Quality {
  std::uint64_t elements = 0;
  std::uint64_t nonfinite = 0;        // NaN and infinite inputs; they take part in no sum
  std::uint64_t saturated = 0;        // |x / scale| beyond 464, which would not round to 448
  std::uint64_t flushed_to_zero = 0;  // x != 0 with a code of zero
  std::uint64_t blocks = 0;
  std::uint64_t kept_blocks = 0;    // whose codes and scale were taken from an original
  std::uint64_t changed_codes = 0;  // codes that differ from the original's
  double max_abs_error = 0;         // max |x - y|
  double sum_squared_error = 0;     // sum of (x - y)²
  double sum_squares = 0;           // sum of x²

  void Add(const Quality& other) {
    elements += other.elements;
    nonfinite += other.nonfinite;
    saturated += other.saturated;
    flushed_to_zero += other.flushed_to_zero;
    blocks += other.blocks;
    kept_blocks += other.kept_blocks;
    changed_codes += other.changed_codes;
    max_abs_error = std::max(max_abs_error, other.max_abs_error);
    sum_squared_error += other.sum_squared_error;
    sum_squares += other.sum_squares;
  }
};

}  // namespace dsv3::quant

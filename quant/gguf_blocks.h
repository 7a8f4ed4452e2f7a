#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

// Floats → the types of GGUF files. All functions are pure, give equal results on every instruction
// set, and need the default floating-point environment.
namespace dsv3::quant {

inline constexpr std::size_t kQ8_0Elements = 32;
inline constexpr std::size_t kQ8_0Bytes = 34;

// Q8_0, as gguf-py's and ggml's quantisers write it: for each 32 values d = the largest magnitude /
// 127 in float, codes that are value × (1 / d), rounded half away from zero, and d as F16 (rounded
// to nearest even) before them. Where d is 0, or 1 / d or a value is not finite, codes whose
// products are not finite are 0; d is then 0, infinite or NaN as the largest magnitude is (a NaN in
// the block counts as that). values.size() is a multiple of 32; `out` has 34 bytes for each 32.
void EncodeQ8_0(std::span<const float> values, std::byte* out);

// out[i] = EncodeF16(values[i]).
void EncodeHalves(std::span<const float> values, std::uint16_t* out);

// The scalar meanings: the oracles of their tests.
void EncodeQ8_0Scalar(std::span<const float> values, std::byte* out);
void EncodeHalvesScalar(std::span<const float> values, std::uint16_t* out);

}  // namespace dsv3::quant

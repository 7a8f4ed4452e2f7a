#pragma once

#include <cstddef>
#include <span>

// The types of GGUF files → floats. All functions are pure, and exact but where a product exceeds
// float. `out` has a value for each element of the whole blocks in `blocks`.
namespace dsv3::quant {

// 34 bytes for 32 values: a scale in F16, then signed codes. The value is code × scale.
void DecodeQ8_0(std::span<const std::byte> blocks, float* out);

// 18 bytes for 32 values: a scale in F16, then 16 bytes, of which byte j has the code of value j in
// its low half and that of value j + 16 in the other. The value is (code − 8) × scale.
void DecodeQ4_0(std::span<const std::byte> blocks, float* out);

// 17 bytes for 32 values: a scale in E8M0, then E2M1 codes that lie as Q4_0's. The scale 0xFF is a
// NaN.
void DecodeMxfp4(std::span<const std::byte> blocks, float* out);

}  // namespace dsv3::quant

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

// Codes of four bits with scales → the blocks of GGUF files, which hold the same codes in another
// order. All functions are thread-safe.
namespace dsv3::quant {

inline constexpr std::size_t kFourBitElements = 32;  // of a block, and of a scale
inline constexpr std::size_t kFourBitCodeBytes = 16;
inline constexpr std::size_t kQ4_0Bytes = 18;
inline constexpr std::size_t kMxfp4Bytes = 17;

// The scale as F16 bits where that is the same value (BF16 scales from 2^-17 to 65280 are), which
// HasExactF16 tells; the nearest otherwise.
bool HasExactF16(float scale);

// INT4 in offset binary → Q4_0: for each scale an F16, then 16 bytes of which byte j has the code
// of element j below that of element j + 16. `codes` has 16 bytes for each scale, the element with
// the even column in the low half; `out` gets 18. Exact where HasExactF16 holds for all scales.
void PackQ4_0(std::span<const std::byte> codes, std::span<const float> scales, std::byte* out);

// E2M1 with E8M0 scales → MXFP4: for each scale its byte, then 16 bytes as in Q4_0; 17 together.
void PackMxfp4(std::span<const std::byte> codes, std::span<const std::byte> scales, std::byte* out);

}  // namespace dsv3::quant

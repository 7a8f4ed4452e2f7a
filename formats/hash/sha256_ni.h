#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

// The SHA-256 compression function with the x86 SHA extensions; private to formats/hash.
namespace dsv3::formats::sha256_ni {

// Whether this machine and its operating system can run Compress.
bool IsSupported();

// How many streams side by side are fastest: each more one hides latency, until the compiler no
// longer finds registers for all of them. Relative rates on Zen 5 with 1, 2, 3 and 4 streams:
// g++ 12 1 : 1.47 : 1.72 : 1.88, clang 14 1 : 1.55 : 1.75 : 1.57.
#if defined(__clang__)
inline constexpr std::size_t kMaxLanes = 3;
#else
inline constexpr std::size_t kMaxLanes = 4;
#endif

struct Lane {
  std::array<std::uint32_t, 8>* state;
  const std::byte* data;  // Compress advances it
};

// Feeds `blocks` 64-byte blocks to each of the 1..kMaxLanes lanes. Requires IsSupported().
void Compress(std::span<Lane> lanes, std::size_t blocks);

}  // namespace dsv3::formats::sha256_ni

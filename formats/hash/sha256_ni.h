#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

// The SHA-256 compression function with the x86 SHA extensions; private to formats/hash.
namespace dsv3::formats::sha256_ni {

// Whether this machine and its operating system can run Compress.
bool IsSupported();

// How many streams Compress takes at once with a gain.
inline constexpr std::size_t kMaxLanes = 4;

struct Lane {
  std::array<std::uint32_t, 8>* state;
  const std::byte* data;  // Compress advances it
};

// Feeds `blocks` 64-byte blocks to each of the 1..kMaxLanes lanes. Requires IsSupported().
void Compress(std::span<Lane> lanes, std::size_t blocks);

}  // namespace dsv3::formats::sha256_ni

#pragma once

#include <cstdint>

namespace dsv3::formats {

// 2^64 divided by the golden ratio, made odd: what SplitMix64 adds for each next number.
inline constexpr std::uint64_t kSplitMixStep = 0x9E3779B97F4A7C15;

// The finaliser of the generator SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
// Number Generators, 2014): each bit of the result depends on all bits of `z`, and no two `z` give
// the same.
constexpr std::uint64_t SplitMix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace dsv3::formats

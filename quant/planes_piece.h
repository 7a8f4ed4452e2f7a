#pragma once

#include <cstddef>
#include <cstdint>

// What planes.cc and its vector kernels share. A kernel takes as many elements as fill whole
// vectors and returns how many these are; the caller does the rest.
namespace dsv3::quant::internal {

// What is done to an element before its bytes are parted, and undone after they are joined.
enum class PlaneStep { kNone, kRotate, kIntegerDifference, kFloatDifference };

struct PlaneSpan {
  const std::uint8_t* base = nullptr;  // the elements that differences are taken to
  std::size_t n = 0;                   // elements, and bytes of a plane
};

// kRotate is for a width of 2 alone.
std::size_t SplitVectors(PlaneStep step, unsigned width, const std::uint8_t* in, PlaneSpan span,
                         std::uint8_t* planes);
std::size_t JoinVectors(PlaneStep step, unsigned width, const std::uint8_t* planes, PlaneSpan span,
                        std::uint8_t* out);
// Adds to `different`.
std::size_t CountVectors(unsigned width, const std::uint8_t* a, const std::uint8_t* b,
                         std::size_t n, std::size_t& different);

}  // namespace dsv3::quant::internal

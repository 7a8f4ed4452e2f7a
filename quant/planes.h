#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

// Rearrangements of the bits of elements that make them easier to compress, all exactly reversible
// for every bit pattern. Elements are little-endian and 1, 2, 4 or 8 bytes wide; memory need not be
// aligned. Plane k of some elements is made of byte k of each, the lowest byte first; planes lie
// behind each other in one span, plane 0 first. Spans must not overlap.
// Each function has the same result on every instruction set; the ...Scalar functions are the
// meaning, one element after the other. All are thread-safe.
namespace dsv3::quant {

// How the numbers of a tensor are ordered as their bits are.
enum class NumberOrder {
  kInteger,  // as two's complement or unsigned integers
  kFloat,    // sign and magnitude: the bits but the sign count away from zero
};

// out[k · n + i] = byte k of element i, for n = in.size() / width elements. Preconditions:
// in.size() is a multiple of `width`, out.size() == in.size().
void SplitPlanes(std::span<const std::byte> in, unsigned width, std::span<std::byte> out);
// The inverse.
void JoinPlanes(std::span<const std::byte> planes, unsigned width, std::span<std::byte> out);

// The same for 2-byte floats whose bits are first rotated left by one: the sign becomes the lowest
// bit. So of BF16 plane 1 is the exponent and plane 0 the mantissa and the sign; of F16 plane 1 is
// the exponent and the three highest bits of the mantissa.
void SplitFloats(std::span<const std::byte> in, std::span<std::byte> out);
void JoinFloats(std::span<const std::byte> planes, std::span<std::byte> out);

// Writes planes of differences. For each element x and the element b of `base` at the same place,
// the difference is d = order(x) − order(b) modulo 2^n, where n is the number of bits and order()
// leaves integers as they are and flips all bits but the sign of floats whose sign is set; and then
// zigzag(d): 2d for d >= 0 and −2d − 1 for d < 0, d being read as a two's complement number.
// So equal elements give 0 and small steps small numbers. Preconditions: in.size() == base.size()
// == out.size(), a multiple of `width`.
void SplitDifferences(std::span<const std::byte> in, std::span<const std::byte> base,
                      unsigned width, NumberOrder order, std::span<std::byte> out);
// The inverse: what SplitDifferences of `out` with the same base gives is `planes`.
void JoinDifferences(std::span<const std::byte> planes, std::span<const std::byte> base,
                     unsigned width, NumberOrder order, std::span<std::byte> out);

// How many elements differ.
std::size_t CountDifferent(std::span<const std::byte> a, std::span<const std::byte> b,
                           unsigned width);

void SplitPlanesScalar(std::span<const std::byte> in, unsigned width, std::span<std::byte> out);
void JoinPlanesScalar(std::span<const std::byte> planes, unsigned width, std::span<std::byte> out);
void SplitFloatsScalar(std::span<const std::byte> in, std::span<std::byte> out);
void JoinFloatsScalar(std::span<const std::byte> planes, std::span<std::byte> out);
void SplitDifferencesScalar(std::span<const std::byte> in, std::span<const std::byte> base,
                            unsigned width, NumberOrder order, std::span<std::byte> out);
void JoinDifferencesScalar(std::span<const std::byte> planes, std::span<const std::byte> base,
                           unsigned width, NumberOrder order, std::span<std::byte> out);

}  // namespace dsv3::quant

#pragma once

#include <cstddef>
#include <span>

// Differences of 2 to 8 bytes most of which fit one: a byte for each, min(difference, 255), and
// what is above 255 of those whose byte is 255 (the large ones). Planes are those of
// quant/planes.h: plane k of n differences is byte k of each.
namespace dsv3::convert {

// Parts `planes`, `width` planes of small.size() differences. Fills `small` with a byte for each
// difference, writes `difference − 255` of the large ones as elements of `width` bytes one behind
// the other to `large`, and returns how many these are. Precondition: planes.size() == large.size()
// == width · small.size().
std::size_t PartDifferences(std::span<const std::byte> planes, unsigned width,
                            std::span<std::byte> small, std::span<std::byte> large);

// The inverse, where `large` are the elements that PartDifferences wrote. Returns false where
// `small` has another number of large differences, or one of these is too large for its elements;
// `planes` is not valid then.
bool MergeDifferences(std::span<const std::byte> small, std::span<const std::byte> large,
                      unsigned width, std::span<std::byte> planes);

}  // namespace dsv3::convert

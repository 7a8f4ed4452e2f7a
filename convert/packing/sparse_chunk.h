#pragma once

#include <cstddef>
#include <span>

// The elements of a chunk that differ from the base. Each is found by its gap, the number of equal
// elements between it and the one before: a byte below 255, or 255 for 255 equal elements and a gap
// that goes on with the next byte. Elements are 1, 2, 4 or 8 bytes wide.
namespace dsv3::convert {

struct SparseSizes {
  std::size_t gap_bytes = 0;
  std::size_t changed = 0;
};

// Finds the elements of `raw` that differ from those of `base`: writes their gaps and, one behind
// the other, their values in both. Each of `values` and `base_values` has room for all elements and
// one more, `gaps` for MaxGapBytes of as many and one more. Preconditions: raw.size() ==
// base.size(), a multiple of `width`.
SparseSizes GatherChanges(std::span<const std::byte> raw, std::span<const std::byte> base,
                          unsigned width, std::byte* gaps, std::byte* values,
                          std::byte* base_values);

// Copies the elements that the gaps find in `elements` to `out`, which has room for `changed`.
// Returns false where the gaps do not find exactly `changed` elements or leave the chunk.
bool GatherElements(std::span<const std::byte> elements, unsigned width,
                    std::span<const std::byte> gaps, std::size_t changed, std::byte* out);

// Writes the values to their places. The gaps must have been accepted by GatherElements.
void ScatterElements(std::span<const std::byte> values, unsigned width,
                     std::span<const std::byte> gaps, std::span<std::byte> elements);

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"

// What the codes of a weight are multiplied with, from the tensors that hold it.
namespace dsv3::convert {

// Scales as floats, those of the whole tensor applied, and the zeros beside them: as many, or none.
struct ScaleValues {
  std::vector<float> scales;
  std::vector<float> zeros;
};

// How many ranges AppendScaleReads appends.
std::size_t NumScaleReads(const ScaledWeight& weight);

// Bytes of all tensors that hold scales and zeros, for each scale; rounded up.
std::uint64_t ScaleBytes(const ScaledWeight& weight);

// Appends the ranges that scales [first, end) need, by their positions in the scale tensor; first <
// end.
void AppendScaleReads(const ScaledWeight& weight, std::uint64_t first, std::uint64_t end,
                      std::vector<SourceRange>& reads);

// Decodes the bytes of those ranges.
void DecodeScaleValues(const ScaledWeight& weight, std::uint64_t first, std::uint64_t end,
                       std::span<const std::span<const std::byte>> inputs, ScaleValues& values);

}  // namespace dsv3::convert

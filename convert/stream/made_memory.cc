#include "convert/stream/made_memory.h"

#include <algorithm>
#include <vector>

namespace dsv3::convert {
namespace {

std::uint64_t MadeOf(const Expression& origin, std::uint64_t range_bytes) {
  const std::uint64_t bytes = origin.num_bytes();
  // What lies in a file as it is, is read without a copy.
  if (bytes == 0 || origin.AsStored(0, bytes)) return 0;
  const std::uint64_t piece = origin.LongestPiece();
  const std::uint64_t made = std::min(bytes, std::min(bytes, range_bytes) + 2 * piece);
  return made * (origin.input_bytes_per_output_byte() + 1);
}

}  // namespace

std::uint64_t MadeMemory(const Expression& expression, std::uint64_t input_bytes,
                         std::span<const DerivedTensors> derived) {
  std::uint64_t most = 0;
  if (derived.empty()) return most;
  for (const std::vector<std::uint32_t>& sources :
       {expression.streamed_sources(), expression.side_sources()}) {
    for (const std::uint32_t source : sources) {
      for (const DerivedTensors& tensors : derived) {
        if (tensors.Holds(source)) {
          most = std::max(most, MadeOf(tensors.OriginOf(source), input_bytes));
        }
      }
    }
  }
  return most;
}

}  // namespace dsv3::convert

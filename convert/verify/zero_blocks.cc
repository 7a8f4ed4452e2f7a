#include "convert/verify/zero_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "convert/model/zero_weights.h"

namespace dsv3::convert {
namespace {

constexpr float kHasValues = std::numeric_limits<float>::quiet_NaN();

bool AreZero(std::span<const std::byte> codes) {
  constexpr std::byte kMagnitude{0x7F};
  return std::all_of(codes.begin(), codes.end(),
                     [](std::byte code) { return (code & kMagnitude) == std::byte{0}; });
}

}  // namespace

ZeroBlocks::ZeroBlocks(std::uint64_t first, std::uint64_t count) : blocks_(count), first_(first) {}

void ZeroBlocks::Add(const ValueReader& reader, std::uint64_t first,
                     std::span<const std::byte> codes, const ValueReader::Scales& scales) {
  for (std::size_t done = 0; done < codes.size();) {
    const ValueReader::ScaleRun run = reader.ScaleRunOf(first + done);
    const auto size = static_cast<std::size_t>(
        std::min<std::uint64_t>(run.end - (first + done), codes.size() - done));
    float& block = blocks_[run.scale - first_];
    if (!std::isnan(block)) {
      const float scale = scales.values[run.scale - scales.first];
      if (!AreZero(codes.subspan(done, size))) {
        block = kHasValues;
      } else if (scale > 0 && std::isfinite(scale) && !IsScaleOfZeros(scale)) {
        block = scale;
      }
    }
    done += size;
  }
}

void ZeroBlocks::Add(const ZeroBlocks& piece) {
  for (std::size_t i = 0; i < piece.blocks_.size(); ++i) {
    float& block = blocks_[piece.first_ - first_ + i];
    if (std::isnan(block) || piece.blocks_[i] == 0) continue;
    block = piece.blocks_[i];
  }
}

ZeroBlockCount ZeroBlocks::Count() const {
  ZeroBlockCount count;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (!(blocks_[i] > 0)) continue;
    if (count.blocks++ == 0) {
      count.first = first_ + i;
      count.first_scale = blocks_[i];
    }
  }
  return count;
}

}  // namespace dsv3::convert

#include "convert/verify/zero_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "convert/model/zero_weights.h"

namespace dsv3::convert {
namespace {

constexpr float kHasValues = std::numeric_limits<float>::quiet_NaN();

}  // namespace

ZeroBlocks::ZeroBlocks(std::uint64_t first, std::uint64_t count) : blocks_(count), first_(first) {}

void ZeroBlocks::Add(const ValueReader& reader, std::uint64_t first,
                     std::span<const std::byte> codes, const ValueReader::Scales& scales) {
  for (std::size_t done = 0; done < codes.size();) {
    const ValueReader::ScaleRow rows = reader.ScaleRowOf(first + done);
    const auto rest = codes.subspan(done, static_cast<std::size_t>(std::min<std::uint64_t>(
                                              rows.end - (first + done), codes.size() - done)));
    AddRows(reader, rows, rest, std::span(scales.values).subspan(rows.first_scale - scales.first));
    done += rest.size();
  }
}

// `scales` begins with the row of scales.
void ZeroBlocks::AddRows(const ValueReader& reader, const ValueReader::ScaleRow& rows,
                         std::span<const std::byte> codes, std::span<const float> scales) {
  const std::span<float> blocks = std::span(blocks_).subspan(rows.first_scale - first_);
  std::uint64_t column = rows.column;
  while (!codes.empty()) {
    const auto row = codes.first(
        static_cast<std::size_t>(std::min<std::uint64_t>(reader.cols() - column, codes.size())));
    const bool whole = row.size() == reader.cols();
    const bool have_values = AddRow(column, reader.block_cols(), row, scales, blocks);
    // Nothing is left to learn of blocks that all have values: most often after one row.
    if (whole && have_values) return;
    codes = codes.subspan(row.size());
    column = 0;
  }
}

// Returns whether all blocks that the codes belong to have values.
bool ZeroBlocks::AddRow(std::uint64_t column, std::uint64_t block_cols,
                        std::span<const std::byte> codes, std::span<const float> scales,
                        std::span<float> blocks) {
  bool have_values = true;
  std::size_t index = column / block_cols;
  std::uint64_t to_next = block_cols - column % block_cols;
  for (std::size_t done = 0; done < codes.size(); ++index) {
    const auto size =
        static_cast<std::size_t>(std::min<std::uint64_t>(to_next, codes.size() - done));
    float& block = blocks[index];
    if (!std::isnan(block)) {
      if (!AreZero(1, codes.subspan(done, size))) {
        block = kHasValues;
      } else {
        have_values = false;
        const float scale = scales[index];
        if (scale > 0 && std::isfinite(scale) && !IsScaleOfZeros(scale)) block = scale;
      }
    }
    done += size;
    to_next = block_cols;
  }
  return have_values;
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

#include "convert/model/zero_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "convert/model/zero_weights.h"

namespace dsv3::convert {
namespace {

constexpr float kHasValues = std::numeric_limits<float>::quiet_NaN();

}  // namespace

ZeroBlocks::ZeroBlocks(std::uint64_t first, std::uint64_t count) : blocks_(count), first_(first) {}

void ZeroBlocks::Add(const ScaledWeight& weight, std::uint64_t first,
                     std::span<const std::byte> codes, const Scales& scales) {
  for (std::size_t done = 0; done < codes.size();) {
    const std::uint64_t row = (first + done) / weight.cols;
    const std::uint64_t row_of_matrix = row % weight.rows;
    const std::uint64_t first_scale =
        (row / weight.rows * weight.ScaleRows() + row_of_matrix / weight.block.rows) *
        weight.ScaleCols();
    // The rows that share a row of scales.
    const std::uint64_t rows = std::min(weight.rows - row_of_matrix,
                                        weight.block.rows - row_of_matrix % weight.block.rows);
    const auto rest =
        codes.subspan(done, static_cast<std::size_t>(std::min<std::uint64_t>(
                                (row + rows) * weight.cols - (first + done), codes.size() - done)));
    // The scales may begin within the row of scales, with that of the first code.
    const std::uint64_t column = (first + done) % weight.cols;
    const std::uint64_t skipped = first_scale < scales.first ? scales.first - first_scale : 0;
    AddRows(weight, column - skipped * weight.block.cols, first_scale + skipped, rest,
            scales.values.subspan(static_cast<std::size_t>(first_scale + skipped - scales.first)));
    done += rest.size();
  }
}

// `column` is counted from the block of `first_scale`, with which `scales` begins.
void ZeroBlocks::AddRows(const ScaledWeight& weight, std::uint64_t column,
                         std::uint64_t first_scale, std::span<const std::byte> codes,
                         std::span<const float> scales) {
  const std::span<float> blocks =
      std::span(blocks_).subspan(static_cast<std::size_t>(first_scale - first_));
  while (!codes.empty()) {
    const auto row = codes.first(
        static_cast<std::size_t>(std::min<std::uint64_t>(weight.cols - column, codes.size())));
    const bool whole = row.size() == weight.cols;
    const bool have_values = AddRow(column, weight.block.cols, row, scales, blocks);
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
  const std::uint64_t piece_end = piece.first_ - first_ + piece.blocks_.size();
  if (blocks_.size() < piece_end) blocks_.resize(static_cast<std::size_t>(piece_end));
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

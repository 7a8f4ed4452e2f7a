#include "convert/plan/stepped_tile.h"

#include <algorithm>
#include <cstring>

#include "convert/catalog/box.h"

namespace dsv3::convert {
namespace {

// Rows and columns of the squares in which a tile is transposed.
constexpr std::size_t kSquare = 64;

// Whether columns that are read one by one would be read without a byte between them.
bool LeavesNoGaps(const TileSteps& steps, std::uint64_t rows) {
  return rows * std::max<std::uint64_t>(1, steps.row) >= steps.col;
}

// Source and value are unaligned, so elements are moved as bytes of a size that is known here.
template <std::size_t kWidth>
std::size_t Gather(const Tile& tile, const TileSteps& steps, std::uint64_t rows,
                   std::span<const std::span<const std::byte>> inputs, std::byte* to,
                   std::uint64_t row_bytes) {
  const auto cols = static_cast<std::size_t>(tile.target.cols());
  const std::size_t row_step = static_cast<std::size_t>(steps.row) * kWidth;
  const std::size_t col_step = static_cast<std::size_t>(steps.col) * kWidth;
  const auto move = [&](const std::byte* from, std::byte* target) {
    std::memcpy(target, from, kWidth);
  };
  if (!steps.by_columns()) {
    const std::byte* from = inputs[0].data();
    for (std::uint64_t row = 0; row < rows; ++row, from += row_step, to += row_bytes) {
      if (col_step == kWidth) {
        std::memcpy(to, from, cols * kWidth);
        continue;
      }
      for (std::size_t col = 0; col < cols; ++col) move(from + col * col_step, to + col * kWidth);
    }
    return 1;
  }
  // Squares that fit the cache: each line of source and value is fetched once.
  const bool one_read = LeavesNoGaps(steps, rows);
  const std::byte* const first = inputs[0].data();
  for (std::size_t col_begin = 0; col_begin < cols; col_begin += kSquare) {
    const std::size_t col_end = std::min(cols, col_begin + kSquare);
    for (std::uint64_t row_begin = 0; row_begin < rows; row_begin += kSquare) {
      const std::uint64_t row_end = std::min<std::uint64_t>(rows, row_begin + kSquare);
      for (std::size_t col = col_begin; col < col_end; ++col) {
        const std::byte* const from = one_read ? first + col * col_step : inputs[col].data();
        std::byte* const target = to + col * kWidth;
        for (std::uint64_t row = row_begin; row < row_end; ++row) {
          move(from + row * row_step, target + row * row_bytes);
        }
      }
    }
  }
  return one_read ? 1 : cols;
}

}  // namespace

std::uint64_t SourceCols(const Catalog& catalog, const Tile& tile) {
  return MatrixOf(catalog.tensors()[tile.tensor].shape).cols;
}

TileSteps StepsOf(const Tile& tile, std::uint64_t source_cols) {
  if (tile.row_step == 0) return {source_cols, 1, true};
  // A row of the box must not go on in the source's next row.
  const bool plain = tile.row_step == source_cols && tile.col_step == 1 &&
                     tile.col + tile.target.cols() <= source_cols;
  return {tile.row_step, tile.col_step, plain};
}

void AppendSteppedReads(const Tile& tile, const TileSteps& steps, std::uint64_t begin,
                        std::uint64_t rows, std::uint64_t element_bytes,
                        std::vector<SourceRange>& reads) {
  const std::uint64_t row_span = (rows - 1) * steps.row;
  const std::uint64_t cols = tile.target.cols();
  const auto read = [&](std::uint64_t from, std::uint64_t elements) {
    reads.push_back({tile.tensor, from * element_bytes, (from + elements) * element_bytes});
  };
  if (!steps.by_columns() || LeavesNoGaps(steps, rows)) {
    read(begin, row_span + (cols - 1) * steps.col + 1);
    return;
  }
  for (std::uint64_t col = 0; col < cols; ++col) read(begin + col * steps.col, row_span + 1);
}

std::size_t GatherStepped(const Tile& tile, const TileSteps& steps, std::uint64_t rows,
                          std::uint64_t element_bytes,
                          std::span<const std::span<const std::byte>> inputs, std::byte* to,
                          std::uint64_t row_bytes) {
  switch (element_bytes) {
    case 1:
      return Gather<1>(tile, steps, rows, inputs, to, row_bytes);
    case 2:
      return Gather<2>(tile, steps, rows, inputs, to, row_bytes);
    case 4:
      return Gather<4>(tile, steps, rows, inputs, to, row_bytes);
    default:
      return Gather<8>(tile, steps, rows, inputs, to, row_bytes);
  }
}

}  // namespace dsv3::convert

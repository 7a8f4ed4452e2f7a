#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/assemble_expression.h"

// Tiles whose elements do not lie in the source as they do in the value: transposed ones, and those
// with other elements between their own. An internal part of assemble_expression.h.
namespace dsv3::convert {

// Columns of the source's matrix.
std::uint64_t SourceCols(const Catalog& catalog, const Tile& tile);

// Tile::row_step and col_step.
struct TileSteps {
  std::uint64_t row = 0;
  std::uint64_t col = 1;
  bool are_plain = true;  // the box lies in the source as it is

  // Whether a column's elements lie nearer to each other than a row's. Then they are read by
  // columns, else by rows.
  bool by_columns() const { return col > row; }
};

TileSteps StepsOf(const Tile& tile, std::uint64_t source_cols);

// What follows is for tiles whose steps are not plain.

// Appends what `rows` rows of the tile read; `begin` is the source element that the first of them
// begins with.
void AppendSteppedReads(const Tile& tile, const TileSteps& steps, std::uint64_t begin,
                        std::uint64_t rows, std::uint64_t element_bytes,
                        std::vector<SourceRange>& reads);

// Puts these rows to `to`, where rows are `row_bytes` apart. `inputs` begin with what was read for
// them. Returns how many inputs that were.
std::size_t GatherStepped(const Tile& tile, const TileSteps& steps, std::uint64_t rows,
                          std::uint64_t element_bytes,
                          std::span<const std::span<const std::byte>> inputs, std::byte* to,
                          std::uint64_t row_bytes);

}  // namespace dsv3::convert

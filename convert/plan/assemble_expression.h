#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// A box of a value that a source tensor holds.
struct Tile {
  Box target;                // of the value
  std::uint32_t tensor = 0;  // in the catalog
  std::uint64_t row = 0;     // of the box's first element in the source tensor, MatrixOf its shape
  std::uint64_t col = 0;
  // From an element to the one in the next row and to the one in the next column of the box, in
  // elements of the source. row_step 0: the box lies in the source's matrix as it is, and col_step
  // is not used; other numbers where it is transposed or has elements between its own.
  std::uint64_t row_step = 0;
  std::uint64_t col_step = 1;
};

// A tensor put together from boxes of source tensors of its dtype, such as the ranks' slices of it:
// rule "assemble". Every element lies in exactly one tile (Error kBadInput that names `name` and
// what is missing or held twice otherwise). Source bytes outside the tiles are not read. Tiles that
// lie side by side make the value cuttable between rows alone. `advice` ends the errors' messages:
// what to do where the tiles do not fit.
ExpressionPtr Assemble(const Catalog& catalog, const std::string& name, formats::Dtype dtype,
                       formats::Shape shape, std::vector<Tile> tiles,
                       std::string_view advice = "make the rank shards again");

}  // namespace dsv3::convert

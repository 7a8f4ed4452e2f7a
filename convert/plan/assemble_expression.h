#pragma once

#include <cstdint>
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
};

// A tensor put together from boxes of source tensors of its dtype, such as the ranks' slices of it:
// rule "assemble". Every element lies in exactly one tile (Error kBadInput that names `name` and
// what is missing or held twice otherwise). Source bytes outside the tiles are not read. Tiles that
// lie side by side make the value cuttable between rows alone.
ExpressionPtr Assemble(const Catalog& catalog, const std::string& name, formats::Dtype dtype,
                       formats::Shape shape, std::vector<Tile> tiles);

}  // namespace dsv3::convert

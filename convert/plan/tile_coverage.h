#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/catalog/catalog.h"
#include "convert/plan/assemble_expression.h"
#include "formats/dtype.h"

// The proof that tiles make a tensor; an internal part of assemble_expression.h. `name` is the
// tensor's, and `advice` ends the messages.
namespace dsv3::convert {

// Throws Error (kBadInput) unless the tile's source has this dtype and holds all of its elements,
// and the box lies in the matrix.
void CheckTile(const Catalog& catalog, const std::string& name, formats::Dtype dtype,
               const MatrixShape& matrix, const Tile& tile, std::string_view advice);

// Throws Error (kBadInput) unless every element of the matrix lies in exactly one tile. The tiles
// are in the order of their first elements. Returns how many elements of the sources' rows lie
// beside a row of the value at most.
std::uint64_t CheckCoverage(const Catalog& catalog, const std::string& name,
                            const MatrixShape& matrix, const std::vector<Tile>& tiles,
                            std::string_view advice);

}  // namespace dsv3::convert

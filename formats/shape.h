#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/dtype.h"

namespace dsv3::formats {

// Dimensions, outermost first (row-major). Empty for a scalar; a dimension may be zero.
using Shape = std::vector<std::uint64_t>;

// Product of the dimensions, 1 for a scalar; nothing when it does not fit 64 bits. The product is
// formed left to right, as the reference does: a zero after an overflow does not save it.
std::optional<std::uint64_t> NumElements(const Shape& shape);

// Bytes that a tensor of this dtype and shape takes; nothing on overflow or when the bits do not
// fill whole bytes.
std::optional<std::uint64_t> NumBytes(Dtype dtype, const Shape& shape);

// "[576, 7168]"; "[]" for a scalar. For people: beyond 16 dimensions only their number is given.
std::string ShapeToString(const Shape& shape);

}  // namespace dsv3::formats

#pragma once

#include "convert/plan/expression.h"
#include "quant/dequantize.h"

namespace dsv3::convert {

// The scales of a `rows` × `cols` weight for blocks `to`, from `scales`, which has those for blocks
// `from`: each block of `to` takes the scale of the block of `from` that its first element lies in.
// Exact where one block size is a multiple of the other, in each dimension (Error kInternal
// otherwise): finer blocks repeat a scale, coarser ones take the first of equal ones. Rule
// "recut-scales".
ExpressionPtr RecutScales(const ExpressionPtr& scales, std::uint64_t rows, std::uint64_t cols,
                          quant::BlockShape from, quant::BlockShape to);

}  // namespace dsv3::convert

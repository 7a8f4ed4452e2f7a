#pragma once

#include <functional>

#include "convert/plan/expression.h"

namespace dsv3::convert {

// `value`, whose sources are tensors that lie in no file as they are: each is made by the
// expression that `origin_of` gives for its position. So the value is made of what these read, such
// as the BF16 weight of an FP8 one that rank shards hold in parts. `value` makes no by-product.
using OriginOfSource = std::function<ExpressionPtr(std::uint32_t tensor)>;
ExpressionPtr Compose(ExpressionPtr value, const OriginOfSource& origin_of);

}  // namespace dsv3::convert

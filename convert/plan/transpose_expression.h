#pragma once

#include "convert/plan/expression.h"

namespace dsv3::convert {

// The value of `origin`, three dimensions of whole bytes, with the last two swapped: rule
// "transpose". May be cut between matrices alone. Throws Error (kInternal) for another value.
ExpressionPtr TransposeMatrices(const ExpressionPtr& origin);

}  // namespace dsv3::convert

#pragma once

#include "convert/plan/expression.h"
#include "formats/error.h"

namespace dsv3::convert {

// The value of `origin`, whole numbers from −128 to 127, in F32, F16, BF16 or I8, as another of
// these. Rule "cast". Evaluating throws Error (kBadInput) that names `tensor` for another number.
// Throws Error (kInternal) for other dtypes.
ExpressionPtr CastOffset(ExpressionPtr origin, formats::Dtype dtype, ErrorPlace tensor);

}  // namespace dsv3::convert

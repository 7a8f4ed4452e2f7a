#pragma once

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// Whether a dtype is one that CastToBF16 makes BF16 of: F32 or F16.
bool IsWiderFloat(formats::Dtype dtype);

// An F32 or F16 source tensor as BF16, rounded to nearest even (quant/float_cast.h). Rule "cast".
// Throws Error (kInternal) for another dtype.
ExpressionPtr CastToBF16(const Catalog& catalog, std::uint32_t tensor);

}  // namespace dsv3::convert

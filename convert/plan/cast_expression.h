#pragma once

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// Whether a dtype is one that CastToBF16 makes BF16 of: F32 or F16.
bool IsWiderFloat(formats::Dtype dtype);

// The value of `origin`, in F32, F16 or BF16, as BF16 (rounded to nearest even, quant/float_cast.h)
// or as F32 (exact). Rule "cast"; the origin itself where it has that dtype. Throws Error
// (kInternal) for other dtypes.
ExpressionPtr Cast(ExpressionPtr origin, formats::Dtype dtype);

// The same of a source tensor, as BF16.
ExpressionPtr CastToBF16(const Catalog& catalog, std::uint32_t tensor);

}  // namespace dsv3::convert

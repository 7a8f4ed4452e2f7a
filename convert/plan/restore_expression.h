#pragma once

#include <cstdint>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// The codes of `original` where the BF16 tensor `values` is still what they mean; positions in the
// catalog. Rule "restore". Evaluating throws Error (kBadInput) that names the first value that
// differs, by row and column. The caller has checked dtypes and shapes (Error kInternal otherwise).
ExpressionPtr Restore(const Catalog& catalog, std::uint32_t values, const ScaledWeight& original);

}  // namespace dsv3::convert

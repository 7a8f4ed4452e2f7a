#pragma once

#include <cstdint>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// The I64 values of a source tensor as I32. Rule "cast". Evaluating throws Error (kBadInput) that
// names tensor and element for a value that I32 does not hold. Throws Error (kInternal) for a
// tensor of another dtype.
ExpressionPtr NarrowIntegers(const Catalog& catalog, std::uint32_t tensor);

}  // namespace dsv3::convert

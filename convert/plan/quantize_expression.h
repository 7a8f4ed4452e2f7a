#pragma once

#include <memory>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"
#include "convert/plan/quantized_weight.h"

namespace dsv3::convert {

struct QuantizeExpressions {
  ExpressionPtr codes;
  ExpressionPtr scale;
};

// Codes and scales of a weight, read once: the scale is the codes' by-product. The caller has
// checked dtypes and shapes (Error kInternal otherwise). Evaluating throws Error (kBadInput) that
// names tensor, row and column of a NaN or infinity, unless they are to be saturated.
QuantizeExpressions Quantize(const Catalog& catalog, const QuantizedWeight& weight);

// The same for a weight that needs two passes. `first_pass` must be finished before either is
// evaluated.
QuantizeExpressions Quantize(const Catalog& catalog, std::shared_ptr<const FirstPass> first_pass);

}  // namespace dsv3::convert

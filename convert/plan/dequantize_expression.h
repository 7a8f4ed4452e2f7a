#pragma once

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// A weight's codes times its scales, rounded to BF16; quant::DequantizeToBF16 defines the numbers.
// `pair` as FindScaledWeights gives it; kInternal when its dimensions contradict the tensors'.
ExpressionPtr Dequantize(const Catalog& catalog, const ScaledWeight& pair);

// The same products as F32, not rounded: quant::DequantizeToFloat. Rule "dequantize".
ExpressionPtr DequantizeToF32(const Catalog& catalog, const ScaledWeight& pair);

}  // namespace dsv3::convert

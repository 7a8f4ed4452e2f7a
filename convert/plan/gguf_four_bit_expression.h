#pragma once

#include <optional>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"
#include "formats/gguf_type.h"

namespace dsv3::convert {

// The GGUF type that holds codes and scales of a weight as they are: Q4_0 for INT4 in offset binary
// without zero points, MXFP4 for E2M1 with E8M0 scales, both with a scale for each 32 columns.
// Nothing for any other weight. Q4_0 is exact while quant::HasExactF16 holds for all scales.
std::optional<formats::GgufType> FourBitGgufType(const ScaledWeight& weight);

// The weight in that type, its codes in the order of the type's blocks. Rule "repack"; may be cut
// between blocks. Throws Error (kInternal) for a weight without such a type.
ExpressionPtr FourBitGguf(const Catalog& catalog, const ScaledWeight& weight);

}  // namespace dsv3::convert

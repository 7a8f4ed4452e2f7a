#pragma once

#include "convert/plan/expression.h"
#include "formats/gguf_type.h"
#include "formats/shape.h"

namespace dsv3::convert {

// Whether values of a type can be made: numbers that are a dtype, Q8_0, Q4_0 and MXFP4.
bool IsDecodedGguf(formats::GgufType type);

// The values of a tensor of `type`, as F32: exact, but infinite where a product exceeds float.
// `blocks` are its bytes (DtypeOfGguf, ShapeOfGguf of `shape`) or those of whole rows, `shape` that
// of the values. Rule "decode"; `blocks` itself where the type is a dtype. May be cut between
// blocks. Throws Error (kInternal) for other types and bytes.
ExpressionPtr DecodeGguf(ExpressionPtr blocks, formats::GgufType type, formats::Shape shape);

}  // namespace dsv3::convert

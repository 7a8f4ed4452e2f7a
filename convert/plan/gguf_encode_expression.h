#pragma once

#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/gguf_type.h"
#include "formats/shape.h"

namespace dsv3::convert {

// How a tensor of a GGUF file is known to plans and executors: elements of a type that is a dtype
// by that, all others as bytes (U8) whose last dimension is the bytes of a row.
formats::Dtype DtypeOfGguf(formats::GgufType type);
formats::Shape ShapeOfGguf(formats::GgufType type, const formats::Shape& shape);

// The value of `origin`, in F32, F16 or BF16, in one of the types F32, F16, BF16 and Q8_0: exact,
// or in one rounding (to nearest even; quant::EncodeQ8_0 says what Q8_0 is). Rule "encode"; the
// origin itself where it has that dtype. Whole blocks of a row are made together. Throws Error
// (kInternal) for other dtypes and types, and where blocks do not fill the rows.
ExpressionPtr EncodeGguf(ExpressionPtr origin, formats::GgufType type);

}  // namespace dsv3::convert

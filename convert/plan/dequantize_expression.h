#pragma once

#include <cstdint>
#include <optional>

#include "convert/plan/catalog.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/shape.h"
#include "quant/dequantize.h"

namespace dsv3::convert {

// A 2-D F8_E4M3 weight times its block scales (F32, BF16 or F8_E8M0), rounded to BF16;
// quant::DequantizeE4M3ToBF16 defines the numbers. The scale's shape must be
// [ceil(rows / block.rows), ceil(cols / block.cols)]; the caller checks (kInternal otherwise).
ExpressionPtr Dequantize(const Catalog& catalog, std::uint32_t weight, std::uint32_t scale,
                         quant::BlockShape block);

// The scale format of a dtype that may hold block scales; nothing for any other dtype.
std::optional<quant::ScaleFormat> ScaleFormatOf(formats::Dtype dtype);

// The shape that block scales of a 2-D weight have.
formats::Shape BlockScaleShape(const formats::Shape& weight, quant::BlockShape block);

}  // namespace dsv3::convert

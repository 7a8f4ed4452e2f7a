#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"
#include "quant/dequantize.h"

// Weights of E2M1 codes in another form, by exact re-encoding (quant/repack.h). Codes have the rule
// "repack", their scales "repack-scale". The weights are single matrices (Error kInternal
// otherwise), and the caller has found that no bit is lost.
namespace dsv3::convert {

// What a look at all scales found, before expressions that use it are evaluated.
struct FoundScales {
  std::uint8_t largest = 0;  // E8M0, over all weights that share a tensor scale
  float tensor_scale = 0;    // of the weight's new form
};

// MXFP4 → FP8 with a scale for each block, whose columns are whole groups: E8M0 scales, or the same
// in F32.
ExpressionPtr Fp8OfMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                         quant::BlockShape block);
ExpressionPtr Fp8ScalesOfMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                               quant::BlockShape block, formats::Dtype dtype);

// MXFP4 → NVFP4: the scales of the groups of 16 columns.
ExpressionPtr GroupScalesOfMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                                 std::shared_ptr<const FoundScales> found);

// found->tensor_scale, which was found in these scale tensors of MXFP4 weights: the weight's own,
// and others that share the tensor scale.
ExpressionPtr TensorScaleOfMxFp4(std::uint32_t own, std::vector<std::uint32_t> others,
                                 formats::Shape shape, std::shared_ptr<const FoundScales> found);

// found->tensor_scale in place of the F32 value of a source tensor; which it is the weight's group
// scales say, too.
ExpressionPtr OtherTensorScaleOf(std::uint32_t tensor_scale, std::uint32_t group_scales,
                                 formats::Shape shape, std::shared_ptr<const FoundScales> found);

// 1 / the F32 value of a source tensor.
ExpressionPtr ReciprocalOf(std::uint32_t scale, formats::Shape shape);

// An F32 value that has no source.
ExpressionPtr ConstantScale(float value, formats::Shape shape);

}  // namespace dsv3::convert

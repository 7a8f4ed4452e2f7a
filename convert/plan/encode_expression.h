#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/shape.h"
#include "quant/encode.h"

// A weight in any form of quantised weights, from values that are stored or dequantised on the way.
namespace dsv3::convert {

// The scale of a tensor, or of several together, which a first pass over their values finds.
// Thread-safe until it is finished, immutable from then on.
class TensorScale {
 public:
  // `rule` has tensor_scale_of.
  TensorScale(const quant::EncodeRule& rule, quant::FloatFormat own) : rule_(rule), own_(own) {}

  // Takes the largest magnitude of some of the values.
  void Raise(float amax);
  void Finish();

  bool finished() const { return finished_; }
  float value() const;  // once it is finished; Error (kInternal) before

 private:
  const quant::EncodeRule& rule_;
  const quant::FloatFormat own_;
  std::mutex mutex_;  // guards amax_
  float amax_ = 0;
  bool finished_ = false;
  float value_ = 1;
};

// A weight as it is to be written: `matrices` row-major matrices of `rows` × `cols`.
struct EncodedWeight {
  // Its values in BF16, F16 or F32: the stored ones or those of its codes, and the tensor that is
  // named where one of them is NaN or infinite.
  ExpressionPtr values;
  ErrorPlace place;
  std::uint64_t matrices = 1;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  const quant::EncodeRule* rule = nullptr;
  formats::Dtype codes_dtype = formats::Dtype::kI8;
  formats::Shape codes_shape;
  formats::Dtype scale_dtype = formats::Dtype::kBF16;
  formats::Shape scale_shape;
  std::shared_ptr<const TensorScale> tensor_scale;  // of rules that have one

  std::uint64_t ScaleRows() const;  // of one matrix
  std::uint64_t ScaleCols() const;
};

struct EncodeExpressions {
  ExpressionPtr codes;
  ExpressionPtr scale;
};

// Codes (rule "quantize") and scales (rule "quantize-scale") of a weight, whose values are read
// once: the scale is the codes' by-product. The caller has checked dtypes and shapes (Error
// kInternal otherwise). Evaluating throws Error (kBadInput) that names tensor, row and column of a
// NaN or infinity. A tensor scale must be finished before.
EncodeExpressions Encode(const EncodedWeight& weight);

// A tensor whose bytes are known when the plan is made. Rule "constant"; `sources` are those that
// it describes.
ExpressionPtr Constant(formats::Dtype dtype, formats::Shape shape, std::vector<std::byte> bytes,
                       std::vector<std::uint32_t> sources);

// A tensor scale, F32. Rule "quantize-scale".
ExpressionPtr TensorScaleValue(std::shared_ptr<const TensorScale> scale, formats::Shape shape,
                               std::vector<std::uint32_t> sources);

}  // namespace dsv3::convert

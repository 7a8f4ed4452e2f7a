#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "convert/plan/catalog.h"
#include "formats/dtype.h"
#include "formats/shape.h"
#include "quant/dequantize.h"

namespace dsv3::convert {

// Bytes [begin, end) of a source tensor; `tensor` is its position in the catalog.
struct SourceRange {
  std::uint32_t tensor = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// What was noticed while bytes were made.
struct EvaluationCounts {
  std::uint64_t nan_codes = 0;  // FP8 NaN codes that became BF16 NaNs
};

// How a target tensor is made of source tensors. Immutable; knows dtype and shape before any byte
// moves, and can make any byte range of its value alone, so that an executor may cut the work where
// it likes. All member functions are thread-safe.
class Expression {
 public:
  virtual ~Expression() = default;
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;

  formats::Dtype dtype() const { return dtype_; }
  const formats::Shape& shape() const { return shape_; }
  std::uint64_t num_bytes() const { return num_bytes_; }

  // The rule's name in the manifest: "copy", "dequantize".
  virtual std::string_view rule() const = 0;

  // The source tensor whose bytes are streamed: evaluating consecutive ranges reads consecutive
  // ranges of it, each byte once.
  virtual std::uint32_t streamed_source() const = 0;
  // Small source tensors that are looked up beside the stream (scales), in a fixed order.
  virtual std::vector<std::uint32_t> side_sources() const { return {}; }

  // Appends the source ranges that the value's bytes [begin, end) need, the streamed one first.
  // `begin` and `end` lie on element boundaries, begin < end.
  virtual void AppendReads(std::uint64_t begin, std::uint64_t end,
                           std::vector<SourceRange>& reads) const = 0;

  // Writes the value's bytes [begin, end) to `out`. `inputs` holds the bytes of the ranges that
  // AppendReads named for the same range, in that order.
  virtual void Evaluate(std::uint64_t begin, std::uint64_t end,
                        std::span<const std::span<const std::byte>> inputs,
                        std::span<std::byte> out, EvaluationCounts& counts) const = 0;

 protected:
  // Throws Error (kInternal) when dtype and shape have no byte size.
  Expression(formats::Dtype dtype, formats::Shape shape);

 private:
  formats::Dtype dtype_;
  formats::Shape shape_;
  std::uint64_t num_bytes_;
};

using ExpressionPtr = std::unique_ptr<const Expression>;

// The source tensor as it is, whatever its dtype.
ExpressionPtr Copy(const Catalog& catalog, std::uint32_t tensor);

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

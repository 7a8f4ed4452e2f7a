#pragma once

#include <cstdint>
#include <vector>

#include "convert/plan/box.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// A box of a value. `origin` makes the whole value; its bytes are row-major.
struct SlicePart {
  ExpressionPtr origin;
  Box box;  // of MatrixOf(origin->shape()); not empty
};

// What a rank holds of one or several tensors: boxes of their values one behind the other, then
// zeros. Rule "slice". Several tensors may cut the same origin: an executor that reads for many
// files at once makes the origin's rows once and gives each slice its part (ExecuteSharedReads).
class SliceExpression final : public Expression {
 public:
  // Origins have `dtype`, whose elements are whole bytes, and no by-products; the parts' bytes fill
  // the shape but for its end, which is zero (Error kInternal otherwise).
  SliceExpression(formats::Dtype dtype, formats::Shape shape, std::vector<SlicePart> parts);

  const std::vector<SlicePart>& parts() const { return parts_; }
  std::uint64_t zero_bytes() const { return zero_bytes_; }  // at the end

  std::string_view rule() const override { return "slice"; }
  std::string parameters() const override;
  std::uint32_t streamed_source() const override {
    return parts_.front().origin->streamed_source();
  }
  std::vector<std::uint32_t> side_sources() const override;
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override;
  std::uint64_t CutAfter(std::uint64_t position) const override;
  std::uint64_t input_bytes_per_output_byte() const override;
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override;
  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override;
  const SliceExpression* slice() const override { return this; }

 private:
  std::vector<SlicePart> parts_;
  std::uint64_t zero_bytes_ = 0;
};

}  // namespace dsv3::convert

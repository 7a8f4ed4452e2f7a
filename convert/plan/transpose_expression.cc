#include "convert/plan/transpose_expression.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "convert/plan/origin_expression.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

class TransposeExpression final : public OriginExpression {
 public:
  explicit TransposeExpression(const ExpressionPtr& origin)
      : OriginExpression(origin, origin->dtype(),
                         {origin->shape()[0], origin->shape()[2], origin->shape()[1]}),
        element_bytes_(formats::DtypeBits(dtype()) / 8),
        rows_(shape()[2]),
        cols_(shape()[1]),
        matrix_bytes_(rows_ * cols_ * element_bytes_) {}

  std::string_view rule() const override { return "transpose"; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % matrix_bytes_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + matrix_bytes_;
  }
  // The origin's value is held beside its inputs.
  std::uint64_t input_bytes_per_output_byte() const override {
    return origin().input_bytes_per_output_byte() + 1;
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    origin().AppendReads(begin, end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::vector<std::byte> value(static_cast<std::size_t>(end - begin));
    EvaluationOutput made{value, {}, std::move(out.counts)};
    origin().Evaluate(begin, end, inputs, made);
    out.counts = std::move(made.counts);
    for (std::size_t at = 0; at < value.size(); at += matrix_bytes_) {
      Transpose(value.data() + at, out.value.data() + at);
    }
  }

 private:
  void Transpose(const std::byte* from, std::byte* to) const {
    for (std::uint64_t col = 0; col < cols_; ++col) {
      for (std::uint64_t row = 0; row < rows_; ++row, to += element_bytes_) {
        std::memcpy(to, from + (row * cols_ + col) * element_bytes_, element_bytes_);
      }
    }
  }

  const std::uint64_t element_bytes_;
  const std::uint64_t rows_;  // of the origin
  const std::uint64_t cols_;
  const std::uint64_t matrix_bytes_;
};

}  // namespace

ExpressionPtr TransposeMatrices(const ExpressionPtr& origin) {
  if (origin->shape().size() != 3 || formats::DtypeBits(origin->dtype()) % 8 != 0 ||
      origin->num_bytes() == 0) {
    throw Error(ErrorCode::kInternal, "a value that is not of matrices is to be transposed");
  }
  return std::make_shared<TransposeExpression>(origin);
}

}  // namespace dsv3::convert

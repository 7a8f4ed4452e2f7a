#include "convert/plan/expression.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

class CopyExpression final : public Expression {
 public:
  // `rule` is a literal.
  CopyExpression(std::string_view rule, formats::Dtype dtype, formats::Shape shape,
                 std::uint32_t tensor)
      : Expression(dtype, std::move(shape)), rule_(rule), tensor_(tensor) {}

  std::string_view rule() const override { return rule_; }
  std::vector<std::uint32_t> streamed_sources() const override { return {tensor_}; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override { return position; }
  std::uint64_t CutAfter(std::uint64_t position) const override { return position + 1; }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({tensor_, begin, end});
  }

  std::optional<SourceRange> AsStored(std::uint64_t begin, std::uint64_t end) const override {
    return SourceRange{tensor_, begin, end};
  }

  void Evaluate(std::uint64_t, std::uint64_t, std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::memcpy(out.value.data(), inputs[0].data(), out.value.size());
  }

 private:
  std::string_view rule_;
  std::uint32_t tensor_;
};

}  // namespace

Expression::Expression(formats::Dtype dtype, formats::Shape shape)
    : dtype_(dtype), shape_(std::move(shape)) {
  const std::optional<std::uint64_t> bytes = formats::NumBytes(dtype_, shape_);
  if (!bytes) {
    throw Error(ErrorCode::kInternal, "an expression of shape " + formats::ShapeToString(shape_) +
                                          " has no size in bytes");
  }
  num_bytes_ = *bytes;
}

std::uint64_t Expression::CutAtOrBefore(std::uint64_t position) const {
  const std::uint64_t element = std::max<std::uint64_t>(1, formats::DtypeBits(dtype_) / 8);
  return position - position % element;
}

std::uint64_t Expression::CutAfter(std::uint64_t position) const {
  const std::uint64_t element = std::max<std::uint64_t>(1, formats::DtypeBits(dtype_) / 8);
  return std::min(num_bytes_, position - position % element + element);
}

ByteRange PiecesAround(const Expression& value, ByteRange range) {
  std::uint64_t end = range.end;
  if (end != value.num_bytes() && value.CutAtOrBefore(end) != end) end = value.CutAfter(end);
  return {value.CutAtOrBefore(range.begin), end};
}

ExpressionPtr Copy(const Catalog& catalog, std::uint32_t tensor) {
  const CatalogTensor& source = catalog.tensors()[tensor];
  return std::make_unique<CopyExpression>("copy", source.dtype, source.shape, tensor);
}

ExpressionPtr SameBytes(const Catalog& catalog, std::uint32_t tensor, formats::Dtype dtype,
                        formats::Shape shape) {
  auto made = std::make_unique<CopyExpression>("repack", dtype, std::move(shape), tensor);
  if (made->num_bytes() != catalog.tensors()[tensor].extent.length) {
    throw Error(ErrorCode::kInternal, "a tensor was planned in a shape of another size",
                {"", catalog.tensors()[tensor].name});
  }
  return made;
}

}  // namespace dsv3::convert

#include "convert/plan/cast_expression.h"

#include <memory>

#include "formats/error.h"
#include "quant/float_cast.h"

namespace dsv3::convert {
namespace {

class CastExpression final : public Expression {
 public:
  CastExpression(const CatalogTensor& source, std::uint32_t tensor)
      : Expression(formats::Dtype::kBF16, source.shape),
        tensor_(tensor),
        format_(source.dtype == formats::Dtype::kF32 ? quant::FloatFormat::kF32
                                                     : quant::FloatFormat::kF16),
        width_(formats::DtypeBits(source.dtype) / 8) {}

  std::string_view rule() const override { return "cast"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {tensor_}; }
  std::uint64_t input_bytes_per_output_byte() const override { return width_ / 2; }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({tensor_, begin / 2 * width_, end / 2 * width_});
  }

  void Evaluate(std::uint64_t, std::uint64_t, std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    // Tensors start on multiples of their element size in the files that are written, so `value` is
    // aligned for 16-bit elements.
    quant::CastToBF16(format_, inputs[0], reinterpret_cast<std::uint16_t*>(out.value.data()));
  }

 private:
  std::uint32_t tensor_;
  quant::FloatFormat format_;
  std::uint64_t width_;
};

}  // namespace

bool IsWiderFloat(formats::Dtype dtype) {
  return dtype == formats::Dtype::kF32 || dtype == formats::Dtype::kF16;
}

ExpressionPtr CastToBF16(const Catalog& catalog, std::uint32_t tensor) {
  const CatalogTensor& source = catalog.tensors()[tensor];
  if (!IsWiderFloat(source.dtype)) {
    throw Error(ErrorCode::kInternal, "a tensor that is not F32 or F16 is to be cast to BF16",
                {"", source.name});
  }
  return std::make_shared<CastExpression>(source, tensor);
}

}  // namespace dsv3::convert

#include "convert/plan/dequantize_expression.h"

#include <memory>
#include <vector>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0); }

class DequantizeExpression final : public Expression {
 public:
  DequantizeExpression(const CatalogTensor& weight, std::uint32_t weight_id, std::uint32_t scale_id,
                       quant::ScaleFormat scale_format, std::uint64_t scale_bytes,
                       quant::BlockShape block)
      : Expression(formats::Dtype::kBF16, weight.shape),
        weight_(weight_id),
        scale_(scale_id),
        scale_format_(scale_format),
        scale_bytes_(scale_bytes),
        cols_(weight.shape[1]),
        block_(block) {}

  std::string_view rule() const override { return "dequantize"; }
  std::uint32_t streamed_source() const override { return weight_; }
  std::vector<std::uint32_t> side_sources() const override { return {scale_}; }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({weight_, begin / 2, end / 2});
    const std::uint64_t scale_row_bytes = CeilDiv(cols_, block_.cols) * scale_bytes_;
    const std::uint64_t first_row = begin / 2 / cols_ / block_.rows;
    const std::uint64_t last_row = (end / 2 - 1) / cols_ / block_.rows;
    reads.push_back({scale_, first_row * scale_row_bytes, (last_row + 1) * scale_row_bytes});
  }

  void Evaluate(std::uint64_t begin, std::uint64_t,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    // One small allocation for a tile of megabytes.
    std::vector<float> scales;
    quant::DecodeScales(scale_format_, inputs[1], scales);
    quant::DequantizeSpan span;
    span.codes = {reinterpret_cast<const std::uint8_t*>(inputs[0].data()), inputs[0].size()};
    span.first = begin / 2;
    span.cols = cols_;
    span.block = block_;
    span.scales = scales;
    quant::DequantizeCounts dequantize_counts;
    // Tensors start on multiples of their element size in the files that are written, so `value` is
    // aligned for 16-bit elements.
    quant::DequantizeE4M3ToBF16(span, reinterpret_cast<std::uint16_t*>(out.value.data()),
                                dequantize_counts);
    out.counts.nan_codes += dequantize_counts.nan_codes;
  }

 private:
  std::uint32_t weight_;
  std::uint32_t scale_;
  quant::ScaleFormat scale_format_;
  std::uint64_t scale_bytes_;
  std::uint64_t cols_;
  quant::BlockShape block_;
};

}  // namespace

ExpressionPtr Dequantize(const Catalog& catalog, std::uint32_t weight, std::uint32_t scale,
                         quant::BlockShape block) {
  const CatalogTensor& w = catalog.tensors()[weight];
  const CatalogTensor& s = catalog.tensors()[scale];
  const std::optional<quant::ScaleFormat> format = ScaleFormatOf(s.dtype);
  if (w.dtype != formats::Dtype::kF8E4M3 || w.shape.size() != 2 || !format ||
      s.shape != BlockScaleShape(w.shape, block)) {
    throw Error(ErrorCode::kInternal, "an unchecked pair of weight and scale reached the plan",
                {"", w.name});
  }
  return std::make_unique<DequantizeExpression>(w, weight, scale, *format,
                                                formats::DtypeBits(s.dtype) / 8, block);
}

std::optional<quant::ScaleFormat> ScaleFormatOf(formats::Dtype dtype) {
  switch (dtype) {
    case formats::Dtype::kF32:
      return quant::ScaleFormat::kF32;
    case formats::Dtype::kBF16:
      return quant::ScaleFormat::kBF16;
    case formats::Dtype::kF8E8M0:
      return quant::ScaleFormat::kE8M0;
    default:
      return std::nullopt;
  }
}

formats::Shape BlockScaleShape(const formats::Shape& weight, quant::BlockShape block) {
  return {CeilDiv(weight[0], block.rows), CeilDiv(weight[1], block.cols)};
}

}  // namespace dsv3::convert

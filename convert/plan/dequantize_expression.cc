#include "convert/plan/dequantize_expression.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "convert/catalog/ceil_div.h"
#include "formats/error.h"
#include "quant/dequantize.h"

namespace dsv3::convert {
namespace {

class DequantizeExpression final : public Expression {
 public:
  DequantizeExpression(const CatalogTensor& weight, const ScaledWeight& pair,
                       std::uint64_t scale_bytes)
      : Expression(formats::Dtype::kBF16, weight.shape),
        pair_(pair),
        scale_bytes_(scale_bytes),
        scale_rows_(pair.ScaleRows()),
        scale_cols_(pair.ScaleCols()) {}

  std::string_view rule() const override { return "dequantize"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {pair_.weight}; }
  std::vector<std::uint32_t> side_sources() const override { return {pair_.scale}; }

  // A code for two bytes, and its share of a scale, which is more than a code in tiny blocks.
  std::uint64_t input_bytes_per_output_byte() const override {
    const std::uint64_t block_elements =
        std::min(pair_.block.rows, pair_.rows) * std::min(pair_.block.cols, pair_.cols);
    return CeilDiv(1 + CeilDiv(scale_bytes_, std::max<std::uint64_t>(1, block_elements)), 2);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({pair_.weight, begin / 2, end / 2});
    const std::uint64_t row_bytes = scale_cols_ * scale_bytes_;
    reads.push_back({pair_.scale, ScaleRowOf(begin / 2) * row_bytes,
                     (ScaleRowOf(end / 2 - 1) + 1) * row_bytes});
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    // One small allocation for a tile of megabytes.
    std::vector<float> scales;
    quant::DecodeScales(pair_.scale_format, inputs[1], scales);
    const std::span<const std::uint8_t> codes(
        reinterpret_cast<const std::uint8_t*>(inputs[0].data()), inputs[0].size());
    // Tensors start on multiples of their element size in the files that are written, so `value` is
    // aligned for 16-bit elements.
    auto* const values = reinterpret_cast<std::uint16_t*>(out.value.data());
    quant::DequantizeCounts counts;
    const std::uint64_t first = begin / 2;
    const std::uint64_t last = end / 2;
    const std::uint64_t matrix_elements = pair_.rows * pair_.cols;
    const std::uint64_t first_scale_row = ScaleRowOf(first);
    for (std::uint64_t at = first; at < last;) {
      const std::uint64_t matrix = at / matrix_elements;
      const std::uint64_t matrix_end = std::min(last, (matrix + 1) * matrix_elements);
      quant::DequantizeSpan span;
      span.codes = codes.subspan(at - first, matrix_end - at);
      span.first = at - matrix * matrix_elements;
      span.cols = pair_.cols;
      span.block = pair_.block;
      span.scales = std::span(scales).subspan((ScaleRowOf(at) - first_scale_row) * scale_cols_);
      quant::DequantizeToBF16(pair_.format, span, values + (at - first), counts);
      at = matrix_end;
    }
    out.counts.nan_codes += counts.nan_codes;
    const std::uint64_t first_scale = first_scale_row * scale_cols_;
    out.counts.zero_blocks = ZeroBlocks(first_scale, scales.size());
    out.counts.zero_blocks.Add(pair_, first, inputs[0], {first_scale, scales});
  }

 private:
  // Of an element, counted over all matrices.
  std::uint64_t ScaleRowOf(std::uint64_t element) const {
    const std::uint64_t row = element / pair_.cols;
    return row / pair_.rows * scale_rows_ + row % pair_.rows / pair_.block.rows;
  }

  ScaledWeight pair_;
  std::uint64_t scale_bytes_;
  std::uint64_t scale_rows_;
  std::uint64_t scale_cols_;
};

}  // namespace

ExpressionPtr Dequantize(const Catalog& catalog, const ScaledWeight& pair) {
  const CatalogTensor& weight = catalog.tensors()[pair.weight];
  const CatalogTensor& scale = catalog.tensors()[pair.scale];
  const bool fp8 =
      weight.dtype == formats::Dtype::kF8E4M3 || weight.dtype == formats::Dtype::kF8E5M2;
  const std::uint64_t scales = pair.matrices * pair.ScaleRows() * pair.ScaleCols();
  if (!fp8 || formats::NumElements(weight.shape) != pair.matrices * pair.rows * pair.cols ||
      formats::NumElements(scale.shape) != scales) {
    throw Error(ErrorCode::kInternal, "an unchecked pair of weight and scale reached the plan",
                {"", weight.name});
  }
  return std::make_unique<DequantizeExpression>(weight, pair, formats::DtypeBits(scale.dtype) / 8);
}

}  // namespace dsv3::convert

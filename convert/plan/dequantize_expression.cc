#include "convert/plan/dequantize_expression.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "convert/catalog/ceil_div.h"
#include "convert/model/code_names.h"
#include "convert/plan/composed_expression.h"
#include "convert/plan/row_tensors.h"
#include "convert/plan/scale_values.h"
#include "formats/error.h"
#include "quant/codes.h"

namespace dsv3::convert {
namespace {

class DequantizeExpression final : public Expression {
 public:
  // `dtype` is BF16 or F32.
  DequantizeExpression(formats::Dtype dtype, const CatalogTensor& weight, const ScaledWeight& pair)
      : Expression(dtype, ShapeOfValues(weight, &pair)),
        pair_(pair),
        element_bytes_(formats::DtypeBits(dtype) / 8),
        codes_of_byte_(8 / quant::CodeBits(pair.format)),
        scale_rows_(pair.ScaleRows()),
        scale_cols_(pair.ScaleCols()) {}

  std::string_view rule() const override { return "dequantize"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {pair_.weight}; }
  std::vector<std::uint32_t> side_sources() const override {
    std::vector<std::uint32_t> sources = {pair_.scale};
    if (pair_.tensor_scale != Catalog::kNone) sources.push_back(pair_.tensor_scale);
    if (pair_.zeros != Catalog::kNone) sources.push_back(pair_.zeros);
    return sources;
  }

  // At whole bytes of codes.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    const std::uint64_t step = element_bytes_ * codes_of_byte_;
    return position / step * step;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + element_bytes_ * codes_of_byte_;
  }

  // A code for an element, and its share of a scale, which is more than a code in tiny blocks.
  std::uint64_t input_bytes_per_output_byte() const override {
    const std::uint64_t block_elements =
        std::min(pair_.block.rows, pair_.rows) * std::min(pair_.block.cols, pair_.cols);
    return CeilDiv(1 + CeilDiv(ScaleBytes(pair_), std::max<std::uint64_t>(1, block_elements)),
                   element_bytes_);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({pair_.weight, begin / element_bytes_ / codes_of_byte_,
                     end / element_bytes_ / codes_of_byte_});
    const auto [first, last] = ScalesOf(begin, end);
    AppendScaleReads(pair_, first, last, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    // One small allocation for a tile of megabytes.
    ScaleValues scales;
    const auto [first_scale, end_scale] = ScalesOf(begin, end);
    DecodeScaleValues(pair_, first_scale, end_scale, inputs.subspan(1), scales);
    const std::span<const std::uint8_t> codes(
        reinterpret_cast<const std::uint8_t*>(inputs[0].data()), inputs[0].size());
    quant::DequantizeCounts counts;
    const std::uint64_t first = begin / element_bytes_;
    const std::uint64_t last = end / element_bytes_;
    const std::uint64_t matrix_elements = pair_.rows * pair_.cols;
    for (std::uint64_t at = first; at < last;) {
      const std::uint64_t matrix = at / matrix_elements;
      const std::uint64_t matrix_end = std::min(last, (matrix + 1) * matrix_elements);
      quant::DequantizeSpan span;
      span.codes = codes.subspan((at - first) / codes_of_byte_, (matrix_end - at) / codes_of_byte_);
      span.first = at - matrix * matrix_elements;
      span.cols = pair_.cols;
      span.block = pair_.block;
      const std::uint64_t scale = ScaleRowOf(at) * scale_cols_ - first_scale;
      span.scales = std::span(scales.scales).subspan(scale);
      if (!scales.zeros.empty()) span.zeros = std::span(scales.zeros).subspan(scale);
      MakeValues(span, out.value.data() + (at - first) * element_bytes_, counts);
      at = matrix_end;
    }
    out.counts.nan_codes += counts.nan_codes;
    // The byte 0 of other forms may mean any value.
    if (codes_of_byte_ != 1 || !scales.zeros.empty()) return;
    out.counts.zero_blocks = ZeroBlocks(first_scale, scales.scales.size());
    out.counts.zero_blocks.Add(pair_, first, inputs[0], {first_scale, scales.scales});
  }

 private:
  // Tensors start on multiples of their element size in the files that are written, so `out` is
  // aligned for its elements.
  void MakeValues(const quant::DequantizeSpan& span, std::byte* out,
                  quant::DequantizeCounts& counts) const {
    if (dtype() == formats::Dtype::kBF16) {
      quant::DequantizeToBF16(pair_.format, span, reinterpret_cast<std::uint16_t*>(out), counts);
    } else {
      quant::DequantizeToFloat(pair_.format, span, reinterpret_cast<float*>(out));
    }
  }

  // The rows of scales that the value's bytes need, as positions of scales.
  std::pair<std::uint64_t, std::uint64_t> ScalesOf(std::uint64_t begin, std::uint64_t end) const {
    return {ScaleRowOf(begin / element_bytes_) * scale_cols_,
            (ScaleRowOf(end / element_bytes_ - 1) + 1) * scale_cols_};
  }

  // Of an element, counted over all matrices.
  std::uint64_t ScaleRowOf(std::uint64_t element) const {
    const std::uint64_t row = element / pair_.cols;
    return row / pair_.rows * scale_rows_ + row % pair_.rows / pair_.block.rows;
  }

  ScaledWeight pair_;
  std::uint64_t element_bytes_;
  std::uint64_t codes_of_byte_;
  std::uint64_t scale_rows_;
  std::uint64_t scale_cols_;
};

ExpressionPtr Make(const Catalog& catalog, const ScaledWeight& pair, formats::Dtype dtype) {
  const CatalogTensor& weight = catalog.tensors()[pair.weight];
  const CatalogTensor& scale = catalog.tensors()[pair.scale];
  const std::uint64_t codes_of_byte = 8 / quant::CodeBits(pair.format);
  const std::uint64_t scales = pair.matrices * pair.ScaleRows() * pair.ScaleCols();
  if (weight.extent.length * codes_of_byte != pair.matrices * pair.rows * pair.cols ||
      pair.cols % codes_of_byte != 0 || formats::NumElements(scale.shape) != scales) {
    throw Error(ErrorCode::kInternal, "an unchecked pair of weight and scale reached the plan",
                {"", weight.name});
  }
  ExpressionPtr value = std::make_shared<DequantizeExpression>(dtype, weight, pair);
  if (!AreKeptByColumns(weight.name)) return value;
  return Compose(std::move(value),
                 [&](std::uint32_t tensor) { return ByRows(catalog, pair, tensor); });
}

}  // namespace

ExpressionPtr Dequantize(const Catalog& catalog, const ScaledWeight& pair) {
  return Make(catalog, pair, formats::Dtype::kBF16);
}

ExpressionPtr DequantizeToF32(const Catalog& catalog, const ScaledWeight& pair) {
  return Make(catalog, pair, formats::Dtype::kF32);
}

}  // namespace dsv3::convert

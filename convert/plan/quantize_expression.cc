#include "convert/plan/quantize_expression.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/plan/span_parts.h"

namespace dsv3::convert {
namespace {

// The value is cut into units of whole panels of at least so many elements (or, in two passes,
// into so many elements of a panel): each unit has a record of its quality.
constexpr std::uint64_t kUnitElements = std::uint64_t{1} << 16;

// Where the bytes of the scale rows of panels [first, last) lie, panels counted over all matrices.
ByteRange ScaleRowRange(const QuantizedWeight& weight, std::uint64_t first, std::uint64_t last) {
  const std::uint64_t row_bytes = weight.ScaleRowBytes();
  return {first * row_bytes, last * row_bytes};
}

// The scales of a weight. By-product of the codes, or known before.
class ScaleExpression final : public Expression {
 public:
  ScaleExpression(const QuantizedWeight& weight, std::shared_ptr<const FirstPass> first_pass)
      : Expression(weight.StoredScaleDtype(), weight.scale_shape),
        weight_(weight),
        first_pass_(std::move(first_pass)) {}

  void SetMaker(const Expression* maker) { maker_ = maker; }

  std::string_view rule() const override { return "quantize-scale"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {weight_.weight}; }
  const Expression* maker() const override { return maker_; }
  std::optional<std::uint32_t> expected_source() const override {
    if (maker_ == nullptr || !weight_.original) return std::nullopt;
    return weight_.original->scale;
  }

  // Made by its maker, or known: nothing is read.
  void AppendReads(std::uint64_t, std::uint64_t, std::vector<SourceRange>&) const override {}

  void Evaluate(std::uint64_t begin, std::uint64_t end, std::span<const std::span<const std::byte>>,
                EvaluationOutput& out) const override {
    if (!first_pass_) {
      throw Error(ErrorCode::kInternal, "a by-product was evaluated");
    }
    const std::span<const std::byte> bytes = first_pass_->scale_bytes().subspan(
        static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    std::memcpy(out.value.data(), bytes.data(), bytes.size());
  }

 private:
  QuantizedWeight weight_;
  std::shared_ptr<const FirstPass> first_pass_;
  const Expression* maker_ = nullptr;
};

// The common part of both ways to make codes.
class CodeExpression : public Expression {
 public:
  CodeExpression(const Catalog& catalog, const QuantizedWeight& weight, std::uint64_t unit_elements)
      : Expression(formats::Dtype::kF8E4M3, catalog.tensors()[weight.weight].shape),
        weight_(weight),
        place_(PlaceOf(catalog, weight.weight)),
        value_bytes_(quant::FloatBytes(weight.values)),
        panel_elements_(weight.PanelRows() * weight.cols),
        matrix_elements_(weight.rows * weight.cols),
        unit_elements_(unit_elements) {}

  std::string_view rule() const override { return "quantize"; }
  std::string parameters() const override {
    return fmt::format("{} {} {}x{} {}{}", static_cast<int>(weight_.format.recipe),
                       static_cast<int>(weight_.format.scale_fmt), weight_.format.block.rows,
                       weight_.format.block.cols, static_cast<int>(weight_.nonfinite),
                       weight_.original ? " like" : "");
  }
  std::vector<std::uint32_t> streamed_sources() const override { return {weight_.weight}; }
  std::vector<std::uint32_t> side_sources() const override {
    if (!weight_.original) return {};
    return {weight_.original->scale};
  }
  std::uint64_t input_bytes_per_output_byte() const override {
    std::uint64_t bytes = value_bytes_;
    // Scales are some 1/4096 of the codes unless the blocks are tiny.
    if (weight_.original && panel_elements_ != 0) {
      bytes += 1 + weight_.ScaleRowBytes() / panel_elements_;
    }
    return bytes;
  }

 protected:
  // Panels are counted over all matrices.
  struct Place {
    std::uint64_t panel = 0;
    std::uint64_t panel_begin = 0;  // its first element
    std::uint64_t panel_end = 0;
  };
  Place PlaceOfElement(std::uint64_t element) const {
    const std::uint64_t matrix = element / matrix_elements_;
    const std::uint64_t panel = element % matrix_elements_ / panel_elements_;
    Place place;
    place.panel = matrix * weight_.ScaleRows() + panel;
    place.panel_begin = matrix * matrix_elements_ + panel * panel_elements_;
    place.panel_end =
        std::min(place.panel_begin + panel_elements_, (matrix + 1) * matrix_elements_);
    return place;
  }

  // Bytes of the scales of all panels that have elements of [begin, end).
  ByteRange ScalesOf(std::uint64_t begin, std::uint64_t end) const {
    return ScaleRowRange(weight_, PlaceOfElement(begin).panel, PlaceOfElement(end - 1).panel + 1);
  }

  void AppendValueReads(std::uint64_t begin, std::uint64_t end,
                        std::vector<SourceRange>& reads) const {
    reads.push_back({weight_.weight, begin * value_bytes_, end * value_bytes_});
    if (!weight_.original) return;
    reads.push_back({weight_.original->codes, begin, end});
    const ByteRange scales = ScalesOf(begin, end);
    reads.push_back({weight_.original->scale, scales.begin, scales.end});
  }

  // `place` is of the panel that `found` counts in.
  [[noreturn]] void Fail(const Place& place, const quant::NonfiniteValue& found) const {
    FailNonfinite(weight_, place_, place.panel_begin + found.row * weight_.cols + found.col,
                  found.value);
  }

  std::span<const std::byte> Values(std::span<const std::byte> input, std::uint64_t begin,
                                    std::uint64_t from, std::uint64_t to) const {
    return input.subspan(static_cast<std::size_t>((from - begin) * value_bytes_),
                         static_cast<std::size_t>((to - from) * value_bytes_));
  }

  const QuantizedWeight weight_;
  const ErrorPlace place_;
  const std::uint64_t value_bytes_;
  const std::uint64_t panel_elements_;  // of the longest panel
  const std::uint64_t matrix_elements_;
  const std::uint64_t unit_elements_;
};

// One pass: whole panels, whose scales come out with their codes.
class OnePassExpression final : public CodeExpression {
 public:
  OnePassExpression(const Catalog& catalog, const QuantizedWeight& weight, const Expression* scale)
      : CodeExpression(catalog, weight, UnitOf(weight)), scale_(scale) {}

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    const std::uint64_t in_matrix = position % matrix_elements_;
    return position - in_matrix % unit_elements_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    const std::uint64_t matrix_end = position - position % matrix_elements_ + matrix_elements_;
    return std::min(CutAtOrBefore(position) + unit_elements_, matrix_end);
  }

  const Expression* by_product() const override { return scale_; }
  ByteRange ByProductRange(std::uint64_t begin, std::uint64_t end) const override {
    return ScalesOf(begin, end);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    AppendValueReads(begin, end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::uint64_t scale_row_bytes = weight_.ScaleRowBytes();
    std::uint64_t unit_end = begin;
    std::uint64_t scales_at = 0;
    Place place;
    for (std::uint64_t at = begin; at < end; at = place.panel_end) {
      if (at == unit_end) {
        out.counts.quality.emplace_back();
        unit_end = CutAfter(at);
      }
      place = PlaceOfElement(at);
      const std::uint64_t count = place.panel_end - at;
      quant::QuantizePanel panel;
      panel.format = weight_.values;
      panel.values = Values(inputs[0], begin, at, place.panel_end);
      panel.rows = count / weight_.cols;
      panel.cols = weight_.cols;
      const auto codes = AsCodes(SpanPart(out.value, at - begin, count));
      const auto scales = SpanPart(out.by_product, scales_at, scale_row_bytes);
      quant::Quality& quality = out.counts.quality.back();
      const auto found =
          weight_.original
              ? quant::QuantizeLike(weight_.format, panel,
                                    AsCodes(SpanPart(inputs[1], at - begin, count)),
                                    SpanPart(inputs[2], scales_at, scale_row_bytes),
                                    weight_.nonfinite, codes, scales, quality)
              : quant::Quantize(weight_.format, panel, weight_.nonfinite, codes, scales, quality);
      if (found) Fail(place, *found);
      scales_at += scale_row_bytes;
    }
  }

 private:
  static std::uint64_t UnitOf(const QuantizedWeight& weight) {
    const std::uint64_t panel = std::max<std::uint64_t>(1, weight.PanelRows() * weight.cols);
    return panel * CeilDiv(kUnitElements, panel);
  }

  const Expression* scale_;
};

// Second of two passes: any part of a panel, whose scales are known.
class SecondPassExpression final : public CodeExpression {
 public:
  SecondPassExpression(const Catalog& catalog, std::shared_ptr<const FirstPass> first_pass)
      : CodeExpression(catalog, first_pass->weight(), kUnitElements),
        first_pass_(std::move(first_pass)) {}

  // Units begin anew in each panel.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - (position - PlaceOfElement(position).panel_begin) % unit_elements_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(CutAtOrBefore(position) + unit_elements_, PlaceOfElement(position).panel_end);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    AppendValueReads(begin, end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::uint64_t scale_row_bytes = weight_.ScaleRowBytes();
    const std::uint64_t first_panel = PlaceOfElement(begin).panel;
    std::uint64_t next = begin;
    for (std::uint64_t at = begin; at < end; at = next) {
      next = CutAfter(at);
      const Place place = PlaceOfElement(at);
      quant::PanelPart part;
      part.format = weight_.values;
      part.values = Values(inputs[0], begin, at, next);
      part.first = at - place.panel_begin;
      part.cols = weight_.cols;
      quant::OriginalPart original;
      if (weight_.original) {
        original.codes = AsCodes(SpanPart(inputs[1], at - begin, next - at));
        original.scales =
            SpanPart(inputs[2], (place.panel - first_panel) * scale_row_bytes, scale_row_bytes);
        original.scale_format = weight_.StoredScale();
      }
      const auto found = quant::QuantizePart(
          weight_.format, part, first_pass_->PanelBlocks(place.panel), weight_.nonfinite,
          weight_.original ? &original : nullptr,
          AsCodes(SpanPart(out.value, at - begin, next - at)), out.counts.quality.emplace_back());
      if (found) Fail(place, *found);
    }
  }

 private:
  std::shared_ptr<const FirstPass> first_pass_;
};

void Check(const Catalog& catalog, const QuantizedWeight& weight) {
  const CatalogTensor& tensor = catalog.tensors()[weight.weight];
  const std::uint64_t elements = weight.matrices * weight.rows * weight.cols;
  const std::uint64_t scales = weight.matrices * weight.ScaleRows() * weight.ScaleCols();
  bool right = FloatFormatOf(tensor.dtype) == weight.values && weight.format.block.rows > 0 &&
               weight.format.block.cols > 0 &&
               formats::NumBytes(formats::Dtype::kU8, tensor.shape) == elements &&
               formats::NumBytes(formats::Dtype::kU8, weight.scale_shape) == scales;
  if (weight.original) {
    const CatalogTensor& codes = catalog.tensors()[weight.original->codes];
    const CatalogTensor& scale = catalog.tensors()[weight.original->scale];
    right = right && weight.values == quant::FloatFormat::kBF16 &&
            codes.dtype == formats::Dtype::kF8E4M3 && codes.shape == tensor.shape &&
            scale.dtype == weight.StoredScaleDtype() && scale.shape == weight.scale_shape;
  }
  if (!right) {
    throw Error(ErrorCode::kInternal, "an unchecked weight reached the plan", {"", tensor.name});
  }
}

}  // namespace

QuantizeExpressions Quantize(const Catalog& catalog, const QuantizedWeight& weight) {
  Check(catalog, weight);
  auto scale = std::make_unique<ScaleExpression>(weight, nullptr);
  auto codes = std::make_unique<OnePassExpression>(catalog, weight, scale.get());
  scale->SetMaker(codes.get());
  return {std::move(codes), std::move(scale)};
}

QuantizeExpressions Quantize(const Catalog& catalog, std::shared_ptr<const FirstPass> first_pass) {
  Check(catalog, first_pass->weight());
  auto scale = std::make_unique<ScaleExpression>(first_pass->weight(), first_pass);
  return {std::make_unique<SecondPassExpression>(catalog, std::move(first_pass)), std::move(scale)};
}

}  // namespace dsv3::convert

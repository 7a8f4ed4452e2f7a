#include "convert/plan/encode_expression.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/plan/quantized_weight.h"
#include "convert/plan/span_parts.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// The value is cut into units of whole rows of blocks of at least so many elements: each unit has a
// record of its quality.
constexpr std::uint64_t kUnitElements = std::uint64_t{1} << 16;

std::uint64_t ScaleRowBytes(const EncodedWeight& weight) {
  const auto own = FloatFormatOf(weight.values->dtype());
  return weight.ScaleCols() * quant::ScaleBytes(quant::StoredScaleOf(
                                  *weight.rule, own.value_or(quant::FloatFormat::kBF16)));
}

// By-product of the codes.
class EncodedScale final : public Expression {
 public:
  explicit EncodedScale(const EncodedWeight& weight)
      : Expression(weight.scale_dtype, weight.scale_shape), values_(weight.values) {}

  void SetMaker(const Expression* maker) { maker_ = maker; }

  std::string_view rule() const override { return "quantize-scale"; }
  std::vector<std::uint32_t> streamed_sources() const override {
    return values_->streamed_sources();
  }
  std::vector<std::uint32_t> side_sources() const override { return values_->side_sources(); }
  const Expression* maker() const override { return maker_; }

  // Made by its maker: nothing is read.
  void AppendReads(std::uint64_t, std::uint64_t, std::vector<SourceRange>&) const override {}
  void Evaluate(std::uint64_t, std::uint64_t, std::span<const std::span<const std::byte>>,
                EvaluationOutput&) const override {
    throw Error(ErrorCode::kInternal, "a by-product was evaluated");
  }

 private:
  const ExpressionPtr values_;
  const Expression* maker_ = nullptr;
};

class EncodedCodes final : public Expression {
 public:
  EncodedCodes(const EncodedWeight& weight, quant::FloatFormat format, const Expression* scale)
      : Expression(weight.codes_dtype, weight.codes_shape),
        weight_(weight),
        format_(format),
        value_bytes_(quant::FloatBytes(format)),
        codes_of_byte_(8 / quant::CodeBits(weight.rule->codes)),
        is_copy_(weight.values->rule() == "copy"),
        block_rows_(std::min(weight.rule->block.rows, weight.rows)),
        matrix_elements_(weight.rows * weight.cols),
        unit_elements_(UnitOf(block_rows_ * weight.cols)),
        scale_row_bytes_(ScaleRowBytes(weight)),
        scale_(scale) {}

  std::string_view rule() const override { return "quantize"; }
  std::string parameters() const override {
    return is_copy_ ? std::string(weight_.rule->name)
                    : fmt::format("{} of {}({})", weight_.rule->name, weight_.values->rule(),
                                  weight_.values->parameters());
  }
  std::vector<std::uint32_t> streamed_sources() const override {
    return weight_.values->streamed_sources();
  }
  std::vector<std::uint32_t> side_sources() const override {
    return weight_.values->side_sources();
  }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return CutBefore(position * codes_of_byte_) / codes_of_byte_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return NextCut(position * codes_of_byte_) / codes_of_byte_;
  }

  // Values that are made are held beside their inputs.
  std::uint64_t input_bytes_per_output_byte() const override {
    const std::uint64_t inputs = is_copy_ ? 1 : weight_.values->input_bytes_per_output_byte() + 1;
    return inputs * value_bytes_ * codes_of_byte_;
  }

  const Expression* by_product() const override { return scale_; }
  ByteRange ByProductRange(std::uint64_t begin, std::uint64_t end) const override {
    return {ScaleRowOf(begin * codes_of_byte_) * scale_row_bytes_,
            (ScaleRowOf(end * codes_of_byte_ - 1) + 1) * scale_row_bytes_};
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    weight_.values->AppendReads(ToValues(begin), ToValues(end), reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::vector<std::byte> made;
    std::span<const std::byte> values;
    if (is_copy_) {
      values = inputs[0];
    } else {
      made.resize(static_cast<std::size_t>(ToValues(end) - ToValues(begin)));
      EvaluationOutput origin{made, {}, {}};
      weight_.values->Evaluate(ToValues(begin), ToValues(end), inputs, origin);
      out.counts.nan_codes += origin.counts.nan_codes;
      values = made;
    }
    const std::uint64_t first = begin * codes_of_byte_;
    const std::uint64_t last = end * codes_of_byte_;
    std::uint64_t scales_at = 0;
    for (std::uint64_t at = first; at < last;) {
      const std::uint64_t next = NextCut(at);
      quant::EncodePanel panel;
      panel.format = format_;
      panel.values = SpanPart(values, (at - first) * value_bytes_, (next - at) * value_bytes_);
      panel.rows = (next - at) / weight_.cols;
      panel.cols = weight_.cols;
      if (weight_.tensor_scale != nullptr) panel.tensor_scale = weight_.tensor_scale->value();
      const std::uint64_t scale_bytes = CeilDiv(panel.rows, block_rows_) * scale_row_bytes_;
      const std::span<std::byte> codes =
          SpanPart(out.value, (at - first) / codes_of_byte_, (next - at) / codes_of_byte_);
      const auto found = quant::Encode(
          *weight_.rule, panel, {reinterpret_cast<std::uint8_t*>(codes.data()), codes.size()},
          SpanPart(out.by_product, scales_at, scale_bytes), out.counts.quality.emplace_back());
      if (found) Fail(at / weight_.cols + found->row, *found);
      scales_at += scale_bytes;
      at = next;
    }
  }

 private:
  static std::uint64_t UnitOf(std::uint64_t panel_elements) {
    const std::uint64_t panel = std::max<std::uint64_t>(1, panel_elements);
    return panel * CeilDiv(kUnitElements, panel);
  }

  // Of elements.
  std::uint64_t CutBefore(std::uint64_t element) const {
    return element - element % matrix_elements_ % unit_elements_;
  }
  std::uint64_t NextCut(std::uint64_t element) const {
    const std::uint64_t matrix_end = (element / matrix_elements_ + 1) * matrix_elements_;
    return std::min(CutBefore(element) + unit_elements_, matrix_end);
  }

  // Counted over all matrices.
  std::uint64_t ScaleRowOf(std::uint64_t element) const {
    return element / matrix_elements_ * weight_.ScaleRows() +
           element % matrix_elements_ / weight_.cols / block_rows_;
  }

  // A position in the codes as one in the values.
  std::uint64_t ToValues(std::uint64_t position) const {
    return position * codes_of_byte_ * value_bytes_;
  }

  [[noreturn]] void Fail(std::uint64_t row, const quant::NonfiniteValue& found) const {
    std::string what = "NaN";
    if (!std::isnan(found.value)) what = found.value > 0 ? "infinite" : "minus infinite";
    const std::string matrix =
        weight_.matrices == 1 ? "" : fmt::format("matrix {}, ", row / weight_.rows);
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: tensor {} is {} at {}row {}, column {}, expected finite numbers; "
                    "repair the weights",
                    formats::ShownPath(weight_.place.file), QuoteForMessage(weight_.place.tensor),
                    what, matrix, row % weight_.rows, found.col),
        weight_.place);
  }

  const EncodedWeight weight_;
  const quant::FloatFormat format_;
  const std::uint64_t value_bytes_;
  const std::uint64_t codes_of_byte_;
  const bool is_copy_;
  const std::uint64_t block_rows_;
  const std::uint64_t matrix_elements_;
  const std::uint64_t unit_elements_;
  const std::uint64_t scale_row_bytes_;
  const Expression* scale_;
};

// Bytes that are known before anything is read.
class ConstantExpression : public Expression {
 public:
  ConstantExpression(formats::Dtype dtype, formats::Shape shape, std::vector<std::byte> bytes,
                     std::vector<std::uint32_t> sources)
      : Expression(dtype, std::move(shape)),
        bytes_(std::move(bytes)),
        sources_(std::move(sources)) {}

  std::string_view rule() const override { return "constant"; }
  std::string parameters() const override {
    std::string text;
    for (const std::byte byte : bytes_) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
    return text;
  }
  std::vector<std::uint32_t> streamed_sources() const override { return sources_; }
  void AppendReads(std::uint64_t, std::uint64_t, std::vector<SourceRange>&) const override {}
  void Evaluate(std::uint64_t begin, std::uint64_t end, std::span<const std::span<const std::byte>>,
                EvaluationOutput& out) const override {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(begin), end - begin,
                out.value.begin());
  }

 private:
  const std::vector<std::byte> bytes_;
  const std::vector<std::uint32_t> sources_;
};

class TensorScaleExpression final : public Expression {
 public:
  TensorScaleExpression(std::shared_ptr<const TensorScale> scale, formats::Shape shape,
                        std::vector<std::uint32_t> sources)
      : Expression(formats::Dtype::kF32, std::move(shape)),
        scale_(std::move(scale)),
        sources_(std::move(sources)) {}

  std::string_view rule() const override { return "quantize-scale"; }
  std::vector<std::uint32_t> streamed_sources() const override { return sources_; }
  void AppendReads(std::uint64_t, std::uint64_t, std::vector<SourceRange>&) const override {}
  void Evaluate(std::uint64_t begin, std::uint64_t end, std::span<const std::span<const std::byte>>,
                EvaluationOutput& out) const override {
    const float value = scale_->value();
    const auto bytes = std::as_bytes(std::span(&value, 1));
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(begin), end - begin, out.value.begin());
  }

 private:
  const std::shared_ptr<const TensorScale> scale_;
  const std::vector<std::uint32_t> sources_;
};

// The format of the values; throws where the parts of the weight contradict each other.
quant::FloatFormat CheckedFormat(const EncodedWeight& weight) {
  const auto format = FloatFormatOf(weight.values->dtype());
  const std::uint64_t elements = weight.matrices * weight.rows * weight.cols;
  const unsigned bits = quant::CodeBits(weight.rule->codes);
  const bool right =
      format && elements != 0 && formats::NumElements(weight.values->shape()) == elements &&
      weight.cols * bits % 8 == 0 &&
      formats::NumBytes(weight.codes_dtype, weight.codes_shape) == elements * bits / 8 &&
      formats::NumBytes(weight.scale_dtype, weight.scale_shape) ==
          weight.matrices * weight.ScaleRows() * ScaleRowBytes(weight) &&
      (weight.tensor_scale != nullptr) == (weight.rule->tensor_scale_of != nullptr);
  if (right) return *format;
  throw Error(ErrorCode::kInternal, "an unchecked weight reached the plan", weight.place);
}

}  // namespace

void TensorScale::Raise(float amax) {
  const std::lock_guard lock(mutex_);
  amax_ = std::max(amax_, amax);
}

void TensorScale::Finish() {
  value_ = rule_.tensor_scale_of(amax_, own_);
  finished_ = true;
}

float TensorScale::value() const {
  if (!finished_) throw Error(ErrorCode::kInternal, "a tensor scale is not known yet");
  return value_;
}

std::uint64_t EncodedWeight::ScaleRows() const { return CeilDiv(rows, rule->block.rows); }
std::uint64_t EncodedWeight::ScaleCols() const {
  return CeilDiv(cols, quant::BlockOf(*rule, cols).cols);
}

EncodeExpressions Encode(const EncodedWeight& weight) {
  const quant::FloatFormat format = CheckedFormat(weight);
  auto scale = std::make_unique<EncodedScale>(weight);
  auto codes = std::make_unique<EncodedCodes>(weight, format, scale.get());
  scale->SetMaker(codes.get());
  return {std::move(codes), std::move(scale)};
}

ExpressionPtr Constant(formats::Dtype dtype, formats::Shape shape, std::vector<std::byte> bytes,
                       std::vector<std::uint32_t> sources) {
  if (formats::NumBytes(dtype, shape) != bytes.size()) {
    throw Error(ErrorCode::kInternal, "a constant does not fill its tensor");
  }
  return std::make_shared<ConstantExpression>(dtype, std::move(shape), std::move(bytes),
                                              std::move(sources));
}

ExpressionPtr TensorScaleValue(std::shared_ptr<const TensorScale> scale, formats::Shape shape,
                               std::vector<std::uint32_t> sources) {
  return std::make_shared<TensorScaleExpression>(std::move(scale), std::move(shape),
                                                 std::move(sources));
}

}  // namespace dsv3::convert

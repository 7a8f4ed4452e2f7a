#include "tests/convert/support/panel_expression.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "formats/error.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

using convert::ByteRange;
using convert::Catalog;
using convert::EvaluationOutput;
using convert::Expression;
using convert::SourceRange;

constexpr std::uint64_t kSumBytes = 4;

std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0); }

// One panel: `source` has two bytes an element.
void MakePanel(std::span<const std::byte> source, std::uint64_t cols, std::uint64_t block_cols,
               std::span<std::byte> value, std::span<std::byte> sums) {
  std::vector<std::uint32_t> sum(static_cast<std::size_t>(CeilDiv(cols, block_cols)));
  const auto block_of = [&](std::size_t i) {
    return static_cast<std::size_t>(i % cols / block_cols);
  };
  for (std::size_t i = 0; i < value.size(); ++i) {
    std::uint16_t element = 0;
    std::memcpy(&element, source.data() + 2 * i, sizeof(element));
    sum[block_of(i)] += element;
  }
  for (std::size_t i = 0; i < value.size(); ++i) {
    value[i] = source[2 * i] ^ source[2 * i + 1] ^ static_cast<std::byte>(sum[block_of(i)]);
  }
  std::memcpy(sums.data(), sum.data(), sums.size());
}

// Fractions, so that another order of adding shows.
quant::Quality QualityOf(std::span<const std::byte> value) {
  quant::Quality quality;
  quality.elements = value.size();
  quality.blocks = 1;
  quality.sum_squares = 1.0 / (1.0 + static_cast<double>(value[0]));
  quality.sum_squared_error = 0.1 * static_cast<double>(value[value.size() / 2]);
  quality.max_abs_error = static_cast<double>(value.back());
  return quality;
}

class SumsExpression final : public Expression {
 public:
  SumsExpression(formats::Shape shape, std::uint32_t source, std::optional<std::uint32_t> expected)
      : Expression(formats::Dtype::kF32, std::move(shape)), source_(source), expected_(expected) {}

  void SetMaker(const Expression* maker) { maker_ = maker; }

  std::string_view rule() const override { return "sums"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {source_}; }
  const Expression* maker() const override { return maker_; }
  std::optional<std::uint32_t> expected_source() const override { return expected_; }
  void AppendReads(std::uint64_t, std::uint64_t, std::vector<SourceRange>&) const override {
    throw Error(ErrorCode::kInternal, "a by-product was asked what it reads");
  }
  void Evaluate(std::uint64_t, std::uint64_t, std::span<const std::span<const std::byte>>,
                EvaluationOutput&) const override {
    throw Error(ErrorCode::kInternal, "a by-product was evaluated");
  }

 private:
  std::uint32_t source_;
  std::optional<std::uint32_t> expected_;
  const Expression* maker_ = nullptr;
};

class PanelExpression final : public Expression {
 public:
  PanelExpression(const formats::Shape& shape, const Panels& panels, const Expression* sums)
      : Expression(formats::Dtype::kU8, shape),
        panels_(panels),
        cols_(shape[1]),
        panel_bytes_(panels.panel_rows * shape[1]),
        sums_row_bytes_(CeilDiv(shape[1], panels.block_cols) * kSumBytes),
        sums_(sums) {}

  std::string_view rule() const override { return "panels"; }
  std::string parameters() const override { return std::to_string(panels_.panel_rows) + " rows"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {panels_.source}; }
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % panel_bytes_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(num_bytes(), CutAtOrBefore(position) + panel_bytes_);
  }
  std::uint64_t input_bytes_per_output_byte() const override { return 2; }
  const Expression* by_product() const override { return sums_; }
  ByteRange ByProductRange(std::uint64_t begin, std::uint64_t end) const override {
    return {begin / panel_bytes_ * sums_row_bytes_, CeilDiv(end, panel_bytes_) * sums_row_bytes_};
  }
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    if (CutAtOrBefore(begin) != begin || (end != num_bytes() && CutAtOrBefore(end) != end)) {
      throw Error(ErrorCode::kInternal, "a panel was cut");
    }
    reads.push_back({panels_.source, 2 * begin, 2 * end});
  }
  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    if (inputs.size() != 1) throw Error(ErrorCode::kInternal, "one input is expected");
    for (std::uint64_t at = begin; at < end; at = CutAfter(at)) {
      const auto from = static_cast<std::size_t>(at - begin);
      const auto length = static_cast<std::size_t>(CutAfter(at) - at);
      const auto row = static_cast<std::size_t>((at - begin) / panel_bytes_ * sums_row_bytes_);
      const std::span<std::byte> value = out.value.subspan(from, length);
      MakePanel(inputs[0].subspan(2 * from, 2 * length), cols_, panels_.block_cols, value,
                out.by_product.subspan(row, static_cast<std::size_t>(sums_row_bytes_)));
      out.counts.quality.push_back(QualityOf(value));
    }
  }

 private:
  Panels panels_;
  std::uint64_t cols_;
  std::uint64_t panel_bytes_;
  std::uint64_t sums_row_bytes_;
  const Expression* sums_;
};

}  // namespace

PanelExpressions MakePanels(const Catalog& catalog, const Panels& panels) {
  const formats::Shape& shape = catalog.tensors()[panels.source].shape;
  const formats::Shape sums_shape = {CeilDiv(shape[0], panels.panel_rows),
                                     CeilDiv(shape[1], panels.block_cols)};
  auto sums = std::make_unique<SumsExpression>(sums_shape, panels.source, panels.expected_sums);
  auto value = std::make_unique<PanelExpression>(shape, panels, sums.get());
  sums->SetMaker(value.get());
  return {std::move(value), std::move(sums)};
}

PanelResult ExpectedPanels(std::string_view source, std::uint64_t rows, std::uint64_t cols,
                           const Panels& panels) {
  PanelResult result;
  for (std::uint64_t row = 0; row < rows; row += panels.panel_rows) {
    const auto elements = static_cast<std::size_t>(std::min(panels.panel_rows, rows - row) * cols);
    std::string value(elements, '\0');
    std::string sums(static_cast<std::size_t>(CeilDiv(cols, panels.block_cols) * kSumBytes), '\0');
    MakePanel(AsBytes(source).subspan(static_cast<std::size_t>(2 * row * cols), 2 * elements), cols,
              panels.block_cols, std::as_writable_bytes(std::span(value)),
              std::as_writable_bytes(std::span(sums)));
    result.quality.Add(QualityOf(AsBytes(value)));
    result.value += value;
    result.sums += sums;
  }
  return result;
}

}  // namespace dsv3::testing

#include "convert/plan/restore_expression.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/plan/dequantize_expression.h"
#include "convert/plan/quantized_weight.h"
#include "convert/plan/row_tensors.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "quant/codec.h"
#include "quant/codes.h"
#include "quant/quantize.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kValueBytes = 2;  // BF16
constexpr std::uint64_t kCodesOfWord = 8;
constexpr std::uint64_t kWordBytes = 4;

[[noreturn]] void FailEdited(const ErrorPlace& place, std::uint64_t row, std::uint64_t col,
                             std::uint16_t found, std::uint16_t meant) {
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: tensor {} is {} at row {}, column {}, but {} in the original: it was "
                  "edited, and --scales-from restores what was not; quantise without it, by --to",
                  formats::ShownPath(place.file), QuoteForMessage(place.tensor),
                  quant::DecodeBF16(found), row, col, quant::DecodeBF16(meant)),
      place);
}

std::uint16_t ValueAt(std::span<const std::byte> values, std::uint64_t at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, values.data() + at * kValueBytes, sizeof bits);
  return bits;
}

class RestoreExpression final : public Expression {
 public:
  RestoreExpression(const Catalog& catalog, std::uint32_t values, const ScaledWeight& original)
      : Expression(catalog.tensors()[original.weight].dtype,
                   catalog.tensors()[original.weight].shape),
        values_(values),
        place_(PlaceOf(catalog, values)),
        cols_(original.cols),
        rows_(original.rows),
        ratio_(kValueBytes * 8 / quant::CodeBits(original.format)),
        meaning_(Dequantize(catalog, original)) {}

  std::string_view rule() const override { return "restore"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {values_}; }
  std::vector<std::uint32_t> side_sources() const override { return meaning_->side_sources(); }

  // The values, and what the codes mean beside the codes themselves.
  std::uint64_t input_bytes_per_output_byte() const override {
    return ratio_ * (2 + meaning_->input_bytes_per_output_byte());
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({values_, begin * ratio_, end * ratio_});
    meaning_->AppendReads(begin * ratio_, end * ratio_, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::vector<std::byte> meant(static_cast<std::size_t>((end - begin) * ratio_));
    EvaluationOutput made{meant, {}, {}};
    meaning_->Evaluate(begin * ratio_, end * ratio_, inputs.subspan(1), made);
    if (std::memcmp(meant.data(), inputs[0].data(), meant.size()) != 0) {
      Fail(begin * ratio_ / kValueBytes, meant, inputs[0]);
    }
    std::copy(inputs[1].begin(), inputs[1].end(), out.value.begin());
  }

 private:
  [[noreturn]] void Fail(std::uint64_t first, std::span<const std::byte> meant,
                         std::span<const std::byte> found) const {
    const auto differs = std::mismatch(meant.begin(), meant.end(), found.begin()).first;
    const auto at = static_cast<std::uint64_t>(differs - meant.begin()) / kValueBytes;
    FailEdited(place_, (first + at) / cols_ % rows_, (first + at) % cols_, ValueAt(found, at),
               ValueAt(meant, at));
  }

  const std::uint32_t values_;
  const ErrorPlace place_;
  const std::uint64_t cols_;
  const std::uint64_t rows_;
  const std::uint64_t ratio_;  // bytes of values for each byte of codes
  const ExpressionPtr meaning_;
};

// The codes of a weight that is kept by columns: words of [columns, rows / 8]. Cut between groups
// of columns.
class RestoreByColumns final : public Expression {
 public:
  RestoreByColumns(const Catalog& catalog, std::uint32_t values, const ScaledWeight& original)
      : Expression(catalog.tensors()[original.weight].dtype,
                   catalog.tensors()[original.weight].shape),
        values_(values),
        place_(PlaceOf(catalog, values)),
        original_(original),
        group_(std::min(original.block.cols, original.cols)),
        column_bytes_(original.rows / kCodesOfWord * kWordBytes) {}

  std::string_view rule() const override { return "restore"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {values_}; }
  bool streams_whole_source() const override { return false; }
  std::vector<std::uint32_t> side_sources() const override {
    return {original_.scale, original_.zeros};
  }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % (group_ * column_bytes_);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + group_ * column_bytes_;
  }
  // Four bytes of values for one of codes, what the codes mean, the codes and a scale.
  std::uint64_t input_bytes_per_output_byte() const override { return 4 + 4 + 1 + 1; }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    const std::uint64_t first = begin / column_bytes_;
    const std::uint64_t last = end / column_bytes_;
    for (std::uint64_t row = 0; row < original_.rows; ++row) {
      const std::uint64_t at = row * original_.cols;
      reads.push_back({values_, (at + first) * kValueBytes, (at + last) * kValueBytes});
    }
    reads.push_back({original_.weight, begin, end});
    const std::uint64_t scale_bytes = quant::ScaleBytes(original_.scale_format) * original_.rows;
    reads.push_back({original_.scale, first / group_ * scale_bytes, last / group_ * scale_bytes});
    reads.push_back(
        {original_.zeros, first / group_ * column_bytes_, last / group_ * column_bytes_});
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const auto rows = static_cast<std::size_t>(original_.rows);
    const std::uint64_t first = begin / column_bytes_;
    const auto columns = static_cast<std::size_t>(end / column_bytes_ - first);
    const std::vector<std::uint16_t> meant = MeaningOf(columns, inputs.subspan(rows));
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t col = 0; col < columns; ++col) {
        const std::uint16_t found = ValueAt(inputs[row], col);
        if (found == meant[col * rows + row]) continue;
        FailEdited(place_, row, first + col, found, meant[col * rows + row]);
      }
    }
    std::copy(inputs[rows].begin(), inputs[rows].end(), out.value.begin());
  }

 private:
  // The values of whole groups of columns, column by column.
  std::vector<std::uint16_t> MeaningOf(std::size_t columns,
                                       std::span<const std::span<const std::byte>> inputs) const {
    const std::vector<std::uint8_t> codes = InRowOrder(inputs[0]);
    std::vector<float> scales;
    quant::DecodeScales(original_.scale_format, inputs[1], scales);
    std::vector<float> zeros;
    for (const std::uint8_t both : InRowOrder(inputs[2])) {
      for (const int zero : {both & 0xF, both >> 4}) {
        zeros.push_back(quant::DecodeCode(original_.format, static_cast<std::uint8_t>(zero)));
      }
    }
    quant::DequantizeSpan span;
    span.codes = codes;
    span.cols = original_.rows;
    span.block = {group_, 1};
    span.scales = scales;
    span.zeros = zeros;
    std::vector<std::uint16_t> meant(columns * static_cast<std::size_t>(original_.rows));
    quant::DequantizeCounts counts;
    quant::DequantizeToBF16(original_.format, span, meant.data(), counts);
    return meant;
  }

  static std::vector<std::uint8_t> InRowOrder(std::span<const std::byte> words) {
    std::vector<std::uint8_t> codes(words.size());
    for (std::size_t at = 0; at < words.size(); at += kWordBytes) {
      std::uint32_t word = 0;
      std::memcpy(&word, words.data() + at, sizeof word);
      word = convert::InRowOrder(word);
      std::memcpy(codes.data() + at, &word, sizeof word);
    }
    return codes;
  }

  const std::uint32_t values_;
  const ErrorPlace place_;
  const ScaledWeight original_;
  const std::uint64_t group_;         // columns that share a row of scales
  const std::uint64_t column_bytes_;  // of codes, and of zero points
};

}  // namespace

ExpressionPtr Restore(const Catalog& catalog, std::uint32_t values, const ScaledWeight& original) {
  const CatalogTensor& tensor = catalog.tensors()[values];
  if (tensor.dtype != formats::Dtype::kBF16 ||
      tensor.shape != ShapeOfValues(catalog.tensors()[original.weight], &original)) {
    throw Error(ErrorCode::kInternal, "an unchecked weight reached the plan", {"", tensor.name});
  }
  if (IsByColumns(catalog, original))
    return std::make_shared<RestoreByColumns>(catalog, values, original);
  return std::make_shared<RestoreExpression>(catalog, values, original);
}

}  // namespace dsv3::convert

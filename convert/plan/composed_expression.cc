#include "convert/plan/composed_expression.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

void AddMissing(const std::vector<std::uint32_t>& more, std::vector<std::uint32_t>& to) {
  for (const std::uint32_t one : more) {
    if (std::find(to.begin(), to.end(), one) == to.end()) to.push_back(one);
  }
}

class ComposedExpression final : public Expression {
 public:
  ComposedExpression(ExpressionPtr value, const OriginOfSource& origin_of)
      : Expression(value->dtype(), value->shape()), value_(std::move(value)) {
    for (const std::uint32_t source : value_->streamed_sources()) {
      const ExpressionPtr origin = origin_of(source);
      AddMissing(origin->streamed_sources(), streamed_);
      origins_.emplace(source, origin);
    }
    for (const std::uint32_t source : value_->side_sources()) {
      const ExpressionPtr origin = origin_of(source);
      AddMissing(origin->streamed_sources(), side_);
      origins_.emplace(source, origin);
    }
    for (const auto& [source, origin] : origins_) AddMissing(origin->side_sources(), side_);
    const std::uint64_t cols = shape().empty() ? 1 : shape().back();
    row_bytes_ = std::max<std::uint64_t>(1, cols * formats::DtypeBits(dtype()) / 8);
  }

  std::string_view rule() const override { return value_->rule(); }
  std::string parameters() const override {
    std::string text = value_->parameters();
    for (const auto& [source, origin] : origins_) {
      text += fmt::format(" {}({})", origin->rule(), origin->parameters());
    }
    return text;
  }
  std::vector<std::uint32_t> streamed_sources() const override { return streamed_; }
  bool streams_whole_source() const override { return false; }
  std::vector<std::uint32_t> side_sources() const override { return side_; }

  // Between rows, where origins can be cut as well: then no byte is read twice.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    std::uint64_t place = position;
    do {
      place = value_->CutAtOrBefore(place - place % row_bytes_);
    } while (place % row_bytes_ != 0);
    return place;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    std::uint64_t place = position - position % row_bytes_ + row_bytes_;
    while (place < num_bytes() && value_->CutAtOrBefore(place) != place) place += row_bytes_;
    return std::min(place, num_bytes());
  }

  // What the value reads is made beside what the origins read.
  std::uint64_t input_bytes_per_output_byte() const override {
    std::uint64_t most = 0;
    for (const auto& [source, origin] : origins_) {
      most = std::max(most, origin->input_bytes_per_output_byte());
    }
    return value_->input_bytes_per_output_byte() * (1 + most);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    for (const SourceRange& range : ReadsOfValue(begin, end)) {
      const ByteRange whole = WholePieces(range);
      if (!whole.empty()) OriginOf(range).AppendReads(whole.begin, whole.end, reads);
    }
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::vector<SourceRange> ranges = ReadsOfValue(begin, end);
    std::vector<std::vector<std::byte>> made(ranges.size());
    std::vector<std::span<const std::byte>> of_value(ranges.size());
    std::vector<SourceRange> reads;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const ByteRange whole = WholePieces(ranges[i]);
      if (whole.empty()) continue;
      const Expression& origin = OriginOf(ranges[i]);
      reads.clear();
      origin.AppendReads(whole.begin, whole.end, reads);
      made[i].resize(static_cast<std::size_t>(whole.size()));
      EvaluationOutput part{made[i], {}, {}};
      origin.Evaluate(whole.begin, whole.end, inputs.first(reads.size()), part);
      inputs = inputs.subspan(reads.size());
      of_value[i] =
          std::span(made[i]).subspan(static_cast<std::size_t>(ranges[i].begin - whole.begin),
                                     static_cast<std::size_t>(ranges[i].end - ranges[i].begin));
    }
    value_->Evaluate(begin, end, of_value, out);
  }

 private:
  std::vector<SourceRange> ReadsOfValue(std::uint64_t begin, std::uint64_t end) const {
    std::vector<SourceRange> reads;
    value_->AppendReads(begin, end, reads);
    return reads;
  }

  const Expression& OriginOf(const SourceRange& range) const { return *origins_.at(range.tensor); }

  // The bytes that the origin can make around a range.
  ByteRange WholePieces(const SourceRange& range) const {
    if (range.begin >= range.end) return {};
    return PiecesAround(OriginOf(range), {range.begin, range.end});
  }

  const ExpressionPtr value_;
  std::map<std::uint32_t, ExpressionPtr> origins_;  // by the position that `value_` reads
  std::vector<std::uint32_t> streamed_;
  std::vector<std::uint32_t> side_;
  std::uint64_t row_bytes_ = 1;
};

}  // namespace

ExpressionPtr Compose(ExpressionPtr value, const OriginOfSource& origin_of) {
  if (value->by_product() != nullptr || value->maker() != nullptr) {
    throw Error(ErrorCode::kInternal, "a value with a by-product reached Compose");
  }
  return std::make_shared<ComposedExpression>(std::move(value), origin_of);
}

}  // namespace dsv3::convert

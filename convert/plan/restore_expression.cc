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
#include "formats/error.h"
#include "formats/message_text.h"
#include "quant/codec.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kValueBytes = 2;  // BF16

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
    const auto value = [&](std::span<const std::byte> bytes) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, bytes.data() + at * kValueBytes, sizeof bits);
      return quant::DecodeBF16(bits);
    };
    const std::uint64_t row = (first + at) / cols_;
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: tensor {} is {} at row {}, column {}, but {} in the original: it was "
                    "edited, and --scales-from restores what was not; quantise without it, by --to",
                    formats::ShownPath(place_.file), QuoteForMessage(place_.tensor), value(found),
                    row % rows_, (first + at) % cols_, value(meant)),
        place_);
  }

  const std::uint32_t values_;
  const ErrorPlace place_;
  const std::uint64_t cols_;
  const std::uint64_t rows_;
  const std::uint64_t ratio_;  // bytes of values for each byte of codes
  const ExpressionPtr meaning_;
};

}  // namespace

ExpressionPtr Restore(const Catalog& catalog, std::uint32_t values, const ScaledWeight& original) {
  const CatalogTensor& tensor = catalog.tensors()[values];
  if (tensor.dtype != formats::Dtype::kBF16 ||
      tensor.shape != ShapeOfValues(catalog.tensors()[original.weight], &original)) {
    throw Error(ErrorCode::kInternal, "an unchecked weight reached the plan", {"", tensor.name});
  }
  return std::make_shared<RestoreExpression>(catalog, values, original);
}

}  // namespace dsv3::convert

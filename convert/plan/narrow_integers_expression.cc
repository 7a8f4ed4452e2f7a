#include "convert/plan/narrow_integers_expression.h"

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::uint64_t kWide = sizeof(std::int64_t);
constexpr std::uint64_t kNarrow = sizeof(std::int32_t);

class NarrowIntegersExpression final : public Expression {
 public:
  NarrowIntegersExpression(std::uint32_t source, formats::Shape shape, std::string file,
                           std::string name)
      : Expression(Dtype::kI32, std::move(shape)),
        source_(source),
        file_(std::move(file)),
        name_(std::move(name)) {}

  std::string_view rule() const override { return "cast"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {source_}; }
  std::uint64_t input_bytes_per_output_byte() const override { return kWide / kNarrow; }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({source_, begin / kNarrow * kWide, end / kNarrow * kWide});
  }

  void Evaluate(std::uint64_t begin, std::uint64_t /*end*/,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::size_t count = inputs[0].size() / kWide;
    for (std::size_t i = 0; i < count; ++i) {
      std::int64_t wide = 0;
      std::memcpy(&wide, inputs[0].data() + i * kWide, kWide);
      const auto narrow = static_cast<std::int32_t>(wide);
      if (narrow != wide) Refuse(begin / kNarrow + i, wide);
      std::memcpy(out.value.data() + i * kNarrow, &narrow, kNarrow);
    }
  }

 private:
  [[noreturn]] void Refuse(std::uint64_t element, std::int64_t value) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is {} at element {}, which 32 bits do not hold; the "
                            "checkpoint is damaged, download it again",
                            formats::ShownPath(file_), QuoteForMessage(name_), value, element),
                {file_, name_});
  }

  const std::uint32_t source_;
  const std::string file_;
  const std::string name_;
};

}  // namespace

ExpressionPtr NarrowIntegers(const Catalog& catalog, std::uint32_t tensor) {
  const CatalogTensor& source = catalog.tensors()[tensor];
  if (source.dtype != Dtype::kI64) {
    throw Error(ErrorCode::kInternal, "integers of another dtype than I64 are to be narrowed",
                {"", source.name});
  }
  return std::make_shared<NarrowIntegersExpression>(
      tensor, source.shape, catalog.files()[source.extent.file].name, source.name);
}

}  // namespace dsv3::convert

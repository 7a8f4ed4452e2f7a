#include "convert/plan/gguf_decode_expression.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/plan/gguf_encode_expression.h"
#include "convert/plan/origin_expression.h"
#include "formats/error.h"
#include "quant/gguf_values.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufType;

class GgufDecodeExpression final : public OriginExpression {
 public:
  GgufDecodeExpression(ExpressionPtr blocks, GgufType type, formats::Shape shape)
      : OriginExpression(std::move(blocks), Dtype::kF32, std::move(shape)),
        type_(type),
        block_(formats::GgufTypeInfoOf(type)) {}

  std::string_view rule() const override { return "decode"; }
  std::string parameters() const override {
    return fmt::format("{} {}", block_.name, OriginExpression::parameters());
  }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % ValueBytes();
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + ValueBytes();
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    origin().AppendReads(ToBlocks(begin), ToBlocks(end), reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::vector<std::byte> bytes(static_cast<std::size_t>(ToBlocks(end) - ToBlocks(begin)));
    EvaluationOutput made{bytes, {}, std::move(out.counts)};
    origin().Evaluate(ToBlocks(begin), ToBlocks(end), inputs, made);
    out.counts = std::move(made.counts);
    // The parts that values are made in are aligned for their elements.
    auto* const values = reinterpret_cast<float*>(out.value.data());
    switch (type_) {
      case GgufType::kQ8_0:
        return quant::DecodeQ8_0(bytes, values);
      case GgufType::kQ4_0:
        return quant::DecodeQ4_0(bytes, values);
      default:
        return quant::DecodeMxfp4(bytes, values);
    }
  }

 private:
  // Of a block.
  std::uint64_t ValueBytes() const { return block_.block_elements * sizeof(float); }
  std::uint64_t ToBlocks(std::uint64_t position) const {
    return position / ValueBytes() * block_.block_bytes;
  }

  const GgufType type_;
  const formats::GgufTypeInfo& block_;
};

bool IsDecodedBlock(GgufType type) {
  return type == GgufType::kQ8_0 || type == GgufType::kQ4_0 || type == GgufType::kMxfp4;
}

}  // namespace

bool IsDecodedGguf(GgufType type) {
  return IsDecodedBlock(type) || DtypeOfGguf(type) != Dtype::kU8;
}

ExpressionPtr DecodeGguf(ExpressionPtr blocks, GgufType type, formats::Shape shape) {
  if (!IsDecodedGguf(type) || formats::GgufNumBytes(type, shape) != blocks->num_bytes()) {
    throw Error(ErrorCode::kInternal, "values are to be made of bytes of another type or size");
  }
  if (!IsDecodedBlock(type)) return blocks;
  return std::make_shared<GgufDecodeExpression>(std::move(blocks), type, std::move(shape));
}

}  // namespace dsv3::convert

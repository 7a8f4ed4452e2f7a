#include "convert/plan/gguf_four_bit_expression.h"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "convert/catalog/ceil_div.h"
#include "convert/plan/gguf_encode_expression.h"
#include "formats/error.h"
#include "quant/codes.h"
#include "quant/gguf_four_bit.h"
#include "quant/quantize.h"

namespace dsv3::convert {
namespace {

using formats::GgufType;

class FourBitGgufExpression final : public Expression {
 public:
  FourBitGgufExpression(const ScaledWeight& weight, GgufType type, const formats::Shape& shape)
      : Expression(DtypeOfGguf(type), ShapeOfGguf(type, shape)),
        weight_(weight),
        type_(type),
        block_bytes_(formats::GgufTypeInfoOf(type).block_bytes),
        scale_bytes_(quant::ScaleBytes(weight.scale_format)) {}

  std::string_view rule() const override { return "repack"; }
  std::string parameters() const override {
    return std::string(formats::GgufTypeInfoOf(type_).name);
  }
  std::vector<std::uint32_t> streamed_sources() const override { return {weight_.weight}; }
  std::vector<std::uint32_t> side_sources() const override { return {weight_.scale}; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % block_bytes_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + block_bytes_;
  }
  std::uint64_t input_bytes_per_output_byte() const override {
    return CeilDiv(quant::kFourBitCodeBytes + scale_bytes_, block_bytes_);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    const std::uint64_t first = begin / block_bytes_;
    const std::uint64_t last = end / block_bytes_;
    reads.push_back(
        {weight_.weight, first * quant::kFourBitCodeBytes, last * quant::kFourBitCodeBytes});
    reads.push_back({weight_.scale, first * scale_bytes_, last * scale_bytes_});
  }

  void Evaluate(std::uint64_t /*begin*/, std::uint64_t /*end*/,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    if (type_ == GgufType::kMxfp4) return quant::PackMxfp4(inputs[0], inputs[1], out.value.data());
    std::vector<float> scales;
    quant::DecodeScales(weight_.scale_format, inputs[1], scales);
    quant::PackQ4_0(inputs[0], scales, out.value.data());
  }

 private:
  const ScaledWeight weight_;
  const GgufType type_;
  const std::uint64_t block_bytes_;
  const std::uint64_t scale_bytes_;
};

}  // namespace

std::optional<GgufType> FourBitGgufType(const ScaledWeight& weight) {
  const bool has_blocks = weight.block == quant::BlockShape{1, quant::kFourBitElements} &&
                          weight.cols % quant::kFourBitElements == 0 &&
                          weight.tensor_scale == Catalog::kNone && weight.zeros == Catalog::kNone;
  if (!has_blocks) return std::nullopt;
  const bool is_e8m0 = weight.scale_format == quant::ScaleFormat::kE8M0;
  if (weight.format == quant::CodeFormat::kI4Offset) return GgufType::kQ4_0;
  if (weight.format == quant::CodeFormat::kE2M1 && is_e8m0) return GgufType::kMxfp4;
  return std::nullopt;
}

ExpressionPtr FourBitGguf(const Catalog& catalog, const ScaledWeight& weight) {
  const CatalogTensor& codes = catalog.tensors()[weight.weight];
  const std::optional<GgufType> type = FourBitGgufType(weight);
  const std::uint64_t elements = weight.matrices * weight.rows * weight.cols;
  const std::uint64_t scales = elements / quant::kFourBitElements;
  const bool right = type && codes.extent.length * 2 == elements &&
                     catalog.tensors()[weight.scale].extent.length ==
                         scales * quant::ScaleBytes(weight.scale_format);
  if (!right) {
    throw Error(ErrorCode::kInternal, "an unchecked weight reached the plan of a GGUF file",
                {"", codes.name});
  }
  return std::make_shared<FourBitGgufExpression>(weight, *type, ShapeOfValues(codes, &weight));
}

}  // namespace dsv3::convert

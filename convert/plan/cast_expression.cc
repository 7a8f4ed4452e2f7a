#include "convert/plan/cast_expression.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/plan/origin_expression.h"
#include "convert/plan/quantized_weight.h"
#include "formats/error.h"
#include "quant/float_cast.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

class CastExpression final : public OriginExpression {
 public:
  CastExpression(const ExpressionPtr& origin, Dtype dtype)
      : OriginExpression(origin, dtype, origin->shape()),
        from_(formats::DtypeBits(origin->dtype()) / 8),
        to_(formats::DtypeBits(dtype) / 8),
        is_copy_(origin->rule() == "copy") {}

  std::string_view rule() const override { return "cast"; }
  std::string parameters() const override { return is_copy_ ? "" : OriginExpression::parameters(); }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return ToValue(origin().CutAtOrBefore(ToOrigin(position)));
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return ToValue(origin().CutAfter(ToOrigin(position)));
  }
  std::uint64_t LongestPiece() const override { return ToValue(origin().LongestPiece()); }

  // The origin's value is held beside its inputs unless it is one of them.
  std::uint64_t input_bytes_per_output_byte() const override {
    const std::uint64_t bytes = origin().input_bytes_per_output_byte() + (is_copy_ ? 0 : 1);
    return CeilDiv(bytes * from_, to_);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    origin().AppendReads(ToOrigin(begin), ToOrigin(end), reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    if (is_copy_) return Convert(inputs[0], out.value);
    std::vector<std::byte> value(static_cast<std::size_t>(ToOrigin(end) - ToOrigin(begin)));
    EvaluationOutput made{value, {}, {}};
    origin().Evaluate(ToOrigin(begin), ToOrigin(end), inputs, made);
    out.counts.nan_codes += made.counts.nan_codes;
    out.counts.zero_blocks = std::move(made.counts.zero_blocks);
    Convert(value, out.value);
  }

 private:
  std::uint64_t ToOrigin(std::uint64_t position) const { return position / to_ * from_; }
  std::uint64_t ToValue(std::uint64_t position) const { return position / from_ * to_; }

  // Tensors start on multiples of their element size in the files that are written, so `out` is
  // aligned for its elements.
  void Convert(std::span<const std::byte> bytes, std::span<std::byte> out) const {
    const Dtype source = origin().dtype();
    if (dtype() == Dtype::kBF16) {
      quant::CastToBF16(FloatFormatOf(source).value(), bytes,
                        reinterpret_cast<std::uint16_t*>(out.data()));
    } else {
      quant::DecodeFloats(
          source == Dtype::kF16 ? quant::StoredFloat::kF16 : quant::StoredFloat::kBF16, bytes,
          reinterpret_cast<float*>(out.data()));
    }
  }

  const std::uint64_t from_;  // bytes of an element
  const std::uint64_t to_;
  const bool is_copy_;
};

}  // namespace

bool IsWiderFloat(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kF16; }

ExpressionPtr Cast(ExpressionPtr origin, Dtype dtype) {
  if (origin->dtype() == dtype) return origin;
  const Dtype from = origin->dtype();
  const bool to_bf16 = dtype == Dtype::kBF16 && IsWiderFloat(from);
  const bool to_f32 = dtype == Dtype::kF32 && (from == Dtype::kBF16 || from == Dtype::kF16);
  if (!to_bf16 && !to_f32) {
    throw Error(
        ErrorCode::kInternal,
        fmt::format("{} is to be cast to {}", formats::DtypeName(from), formats::DtypeName(dtype)));
  }
  return std::make_shared<CastExpression>(std::move(origin), dtype);
}

ExpressionPtr CastToBF16(const Catalog& catalog, std::uint32_t tensor) {
  return Cast(Copy(catalog, tensor), Dtype::kBF16);
}

}  // namespace dsv3::convert

#include "convert/plan/offset_cast_expression.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/plan/origin_expression.h"
#include "formats/message_text.h"
#include "quant/codec.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr float kLeast = -128;
constexpr float kGreatest = 127;

bool IsKnown(Dtype dtype) {
  return dtype == Dtype::kI8 || dtype == Dtype::kF32 || dtype == Dtype::kF16 ||
         dtype == Dtype::kBF16;
}

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void Store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof value);
}

float Decode(Dtype dtype, const std::byte* from) {
  switch (dtype) {
    case Dtype::kI8:
      return static_cast<float>(Load<std::int8_t>(from));
    case Dtype::kF16:
      return quant::DecodeF16(Load<std::uint16_t>(from));
    case Dtype::kBF16:
      return quant::DecodeBF16(Load<std::uint16_t>(from));
    default:
      return Load<float>(from);
  }
}

void Encode(float value, Dtype dtype, std::byte* to) {
  switch (dtype) {
    case Dtype::kI8:
      return Store(static_cast<std::int8_t>(value), to);
    case Dtype::kF16:
      return Store(quant::EncodeF16(value), to);
    case Dtype::kBF16:
      return Store(quant::EncodeBF16(value), to);
    default:
      return Store(value, to);
  }
}

class OffsetCast final : public OriginExpression {
 public:
  OffsetCast(const ExpressionPtr& origin, Dtype dtype, ErrorPlace tensor)
      : OriginExpression(origin, dtype, origin->shape()), tensor_(std::move(tensor)) {}

  std::string_view rule() const override { return "cast"; }

  // There is one of them for a weight.
  std::uint64_t CutAtOrBefore(std::uint64_t /*position*/) const override { return 0; }
  std::uint64_t CutAfter(std::uint64_t /*position*/) const override { return num_bytes(); }
  std::uint64_t input_bytes_per_output_byte() const override {
    return 4 * (origin().input_bytes_per_output_byte() + 1);
  }

  void AppendReads(std::uint64_t /*begin*/, std::uint64_t /*end*/,
                   std::vector<SourceRange>& reads) const override {
    origin().AppendReads(0, origin().num_bytes(), reads);
  }

  void Evaluate(std::uint64_t /*begin*/, std::uint64_t /*end*/,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::vector<std::byte> stored(static_cast<std::size_t>(origin().num_bytes()));
    EvaluationOutput made{stored, {}, {}};
    origin().Evaluate(0, origin().num_bytes(), inputs, made);
    const std::size_t from = formats::DtypeBits(origin().dtype()) / 8;
    const std::size_t to = formats::DtypeBits(dtype()) / 8;
    for (std::size_t i = 0; i * from < stored.size(); ++i) {
      const float value = Decode(origin().dtype(), stored.data() + i * from);
      if (!(value >= kLeast && value <= kGreatest) || value != std::nearbyint(value)) {
        throw Error(ErrorCode::kBadInput,
                    fmt::format("{}: tensor {} is {} at [{}], expected a whole number from -128 to "
                                "127, as the INT8 that it is subtracted from; the checkpoint is "
                                "damaged",
                                formats::ShownPath(tensor_.file), QuoteForMessage(tensor_.tensor),
                                value, i),
                    tensor_);
      }
      Encode(value, dtype(), out.value.data() + i * to);
    }
  }

 private:
  const ErrorPlace tensor_;
};

}  // namespace

ExpressionPtr CastOffset(ExpressionPtr origin, Dtype dtype, ErrorPlace tensor) {
  if (origin->dtype() == dtype) return origin;
  if (!IsKnown(origin->dtype()) || !IsKnown(dtype)) {
    throw Error(ErrorCode::kInternal,
                fmt::format("an offset in {} is to be cast to {}",
                            formats::DtypeName(origin->dtype()), formats::DtypeName(dtype)));
  }
  return std::make_shared<OffsetCast>(std::move(origin), dtype, std::move(tensor));
}

}  // namespace dsv3::convert

#include "convert/plan/gguf_encode_expression.h"

#include <algorithm>
#include <array>
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
#include "quant/gguf_blocks.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufType;

// Elements that are made at a time, so that they stay in the cache; a multiple of every block.
constexpr std::size_t kStrip = 4096;
// In the same way, bytes of an origin that is made itself.
constexpr std::uint64_t kOriginStrip = 128 << 10;

quant::StoredFloat StoredFormOf(Dtype dtype) {
  if (dtype == Dtype::kF32) return quant::StoredFloat::kF32;
  return dtype == Dtype::kF16 ? quant::StoredFloat::kF16 : quant::StoredFloat::kBF16;
}

class GgufEncodeExpression final : public OriginExpression {
 public:
  GgufEncodeExpression(const ExpressionPtr& origin, GgufType type)
      : OriginExpression(origin, DtypeOfGguf(type), ShapeOfGguf(type, origin->shape())),
        type_(type),
        from_(formats::DtypeBits(origin->dtype()) / 8),
        block_(formats::GgufTypeInfoOf(type)),
        is_copy_(origin->rule() == "copy") {}

  std::string_view rule() const override { return "encode"; }
  std::string parameters() const override {
    return is_copy_ ? std::string(block_.name)
                    : fmt::format("{} {}", block_.name, OriginExpression::parameters());
  }

  // Where the origin may be cut and a block begins.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    std::uint64_t at = origin().CutAtOrBefore(ToOrigin(position));
    while (at % BlockInOrigin() != 0) at = origin().CutAtOrBefore(at - 1);
    return ToValue(at);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    std::uint64_t at = ToOrigin(position) + BlockInOrigin() - 1;
    do {
      at = origin().CutAfter(at);
    } while (at % BlockInOrigin() != 0);
    return ToValue(at);
  }
  std::uint64_t LongestPiece() const override {
    return CeilDiv(origin().LongestPiece(), BlockInOrigin()) * block_.block_bytes;
  }

  // The origin's value is held beside its inputs unless it is one of them.
  std::uint64_t input_bytes_per_output_byte() const override {
    const std::uint64_t bytes = origin().input_bytes_per_output_byte() + (is_copy_ ? 0 : 1);
    return CeilDiv(bytes * BlockInOrigin(), block_.block_bytes);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    origin().AppendReads(ToOrigin(begin), ToOrigin(end), reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    if (is_copy_) return Convert(inputs[0], out.value);
    std::vector<SourceRange> reads;
    AppendReads(begin, end, reads);
    std::vector<std::byte> value;
    Strip strip;
    for (std::uint64_t at = begin; at < end; at = strip.end) {
      strip.end = EndOfStrip(at, end);
      if (!FindInputs(at, reads, inputs, strip)) {
        // The strips' inputs are not parts of the whole's: all at once.
        out.counts = {};
        at = begin;
        strip.end = end;
        strip.inputs.assign(inputs.begin(), inputs.end());
      }
      value.resize(static_cast<std::size_t>(ToOrigin(strip.end) - ToOrigin(at)));
      EvaluationOutput made{value, {}, {}};
      origin().Evaluate(ToOrigin(at), ToOrigin(strip.end), strip.inputs, made);
      out.counts.nan_codes += made.counts.nan_codes;
      out.counts.zero_blocks.Add(made.counts.zero_blocks);
      Convert(value, out.value.subspan(static_cast<std::size_t>(at - begin),
                                       static_cast<std::size_t>(strip.end - at)));
    }
  }

 private:
  // A part of a range that is evaluated.
  struct Strip {
    std::uint64_t end = 0;
    std::vector<std::span<const std::byte>> inputs;
    std::vector<SourceRange> reads;  // of these
  };

  std::uint64_t EndOfStrip(std::uint64_t begin, std::uint64_t end) const {
    const std::uint64_t bytes = kOriginStrip / BlockInOrigin() * block_.block_bytes;
    if (end - begin <= bytes) return end;
    const std::uint64_t cut = CutAtOrBefore(begin + bytes);
    return cut > begin ? cut : std::min(end, CutAfter(begin));
  }

  // Finds the strip's inputs within `inputs`, which are those of `reads`; false where they do not
  // lie there.
  bool FindInputs(std::uint64_t begin, const std::vector<SourceRange>& reads,
                  std::span<const std::span<const std::byte>> inputs, Strip& strip) const {
    strip.reads.clear();
    strip.inputs.clear();
    AppendReads(begin, strip.end, strip.reads);
    for (const SourceRange& wanted : strip.reads) {
      const auto holds = [&](const SourceRange& read) {
        return read.tensor == wanted.tensor && read.begin <= wanted.begin && wanted.end <= read.end;
      };
      const auto found = std::find_if(reads.begin(), reads.end(), holds);
      if (found == reads.end()) return false;
      strip.inputs.push_back(inputs[static_cast<std::size_t>(found - reads.begin())].subspan(
          static_cast<std::size_t>(wanted.begin - found->begin),
          static_cast<std::size_t>(wanted.end - wanted.begin)));
    }
    return true;
  }

  std::uint64_t BlockInOrigin() const { return block_.block_elements * from_; }
  // Positions of blocks; the first takes one within a block, too.
  std::uint64_t ToOrigin(std::uint64_t position) const {
    return position / block_.block_bytes * BlockInOrigin();
  }
  std::uint64_t ToValue(std::uint64_t position) const {
    return position / BlockInOrigin() * block_.block_bytes;
  }

  void Convert(std::span<const std::byte> bytes, std::span<std::byte> out) const {
    std::array<float, kStrip> floats;
    while (!bytes.empty()) {
      const std::size_t count = std::min<std::size_t>(kStrip, bytes.size() / from_);
      const std::span<const std::byte> strip = bytes.first(count * from_);
      const std::size_t made = count / block_.block_elements * block_.block_bytes;
      if (!is_copy_ && origin().dtype() == Dtype::kF32) {
        // Made here, so aligned for floats; what is read may lie anywhere.
        Round({reinterpret_cast<const float*>(strip.data()), count}, out.data());
      } else if (type_ == GgufType::kF32) {
        // Tensors are aligned in the file, so `out` is aligned for its elements.
        quant::DecodeFloats(StoredFormOf(origin().dtype()), strip,
                            reinterpret_cast<float*>(out.data()));
      } else {
        quant::DecodeFloats(StoredFormOf(origin().dtype()), strip, floats.data());
        Round(std::span(floats).first(count), out.data());
      }
      bytes = bytes.subspan(strip.size());
      out = out.subspan(made);
    }
  }

  void Round(std::span<const float> floats, std::byte* out) const {
    switch (type_) {
      case GgufType::kF16:
        return quant::EncodeHalves(floats, reinterpret_cast<std::uint16_t*>(out));
      case GgufType::kBF16:
        return quant::CastToBF16(quant::FloatFormat::kF32, std::as_bytes(floats),
                                 reinterpret_cast<std::uint16_t*>(out));
      default:
        return quant::EncodeQ8_0(floats, out);
    }
  }

  const GgufType type_;
  const std::uint64_t from_;  // bytes of an element of the origin
  const formats::GgufTypeInfo& block_;
  const bool is_copy_;
};

}  // namespace

Dtype DtypeOfGguf(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return Dtype::kF32;
    case GgufType::kF16:
      return Dtype::kF16;
    case GgufType::kBF16:
      return Dtype::kBF16;
    case GgufType::kI8:
      return Dtype::kI8;
    case GgufType::kI16:
      return Dtype::kI16;
    case GgufType::kI32:
      return Dtype::kI32;
    case GgufType::kI64:
      return Dtype::kI64;
    case GgufType::kF64:
      return Dtype::kF64;
    default:
      return Dtype::kU8;
  }
}

formats::Shape ShapeOfGguf(GgufType type, const formats::Shape& shape) {
  formats::Shape stored = shape;
  const formats::GgufTypeInfo& info = formats::GgufTypeInfoOf(type);
  if (DtypeOfGguf(type) == Dtype::kU8 && !stored.empty()) {
    stored.back() = stored.back() / info.block_elements * info.block_bytes;
  }
  return stored;
}

ExpressionPtr EncodeGguf(ExpressionPtr origin, GgufType type) {
  const Dtype from = origin->dtype();
  const bool known = type == GgufType::kF32 || type == GgufType::kF16 || type == GgufType::kBF16 ||
                     type == GgufType::kQ8_0;
  if (!FloatFormatOf(from) || !known || !formats::GgufNumBytes(type, origin->shape())) {
    throw Error(
        ErrorCode::kInternal,
        fmt::format("{} {} is to be made {}", formats::DtypeName(from),
                    formats::ShapeToString(origin->shape()), formats::GgufTypeInfoOf(type).name));
  }
  if (from == DtypeOfGguf(type)) return origin;
  return std::make_shared<GgufEncodeExpression>(std::move(origin), type);
}

}  // namespace dsv3::convert

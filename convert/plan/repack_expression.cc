#include "convert/plan/repack_expression.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "formats/error.h"
#include "quant/codec.h"
#include "quant/repack.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;

constexpr std::uint64_t kGroup = 32;  // columns of an MXFP4 scale
constexpr char kRepackScale[] = "repack-scale";

const std::uint8_t* Codes(std::span<const std::byte> bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

// The blocks of an FP8 weight over the groups of an MXFP4 weight. A band is a row of blocks.
struct Blocks {
  Blocks(const ScaledWeight& weight, quant::BlockShape block)
      : rows(weight.rows),
        groups(weight.cols / kGroup),
        band_rows(block.rows),
        block_groups(block.cols / kGroup),
        cols(CeilDiv(groups, block_groups)) {}

  std::uint64_t bands() const { return CeilDiv(rows, band_rows); }
  // Bytes of the group scales of bands [first, end).
  ByteRange ScalesOf(std::uint64_t first, std::uint64_t end) const {
    return {first * band_rows * groups, std::min(rows, end * band_rows) * groups};
  }
  // The block scales of a band, of the scales of its groups.
  void BlockScales(std::span<const std::byte> scales, std::vector<std::uint8_t>& blocks) const {
    blocks.assign(static_cast<std::size_t>(cols), 0);
    const std::uint8_t* scale = Codes(scales);
    for (const std::uint8_t* const end = scale + scales.size(); scale != end;) {
      for (std::uint64_t block = 0; block < cols; ++block) {
        const std::uint64_t size = std::min(block_groups, groups - block * block_groups);
        blocks[block] = std::max(blocks[block], *std::max_element(scale, scale + size));
        scale += size;
      }
    }
    for (std::uint8_t& each : blocks) each = quant::Fp8BlockScale(each);
  }
  std::string Text() const { return fmt::format("{}x{}", band_rows, block_groups * kGroup); }

  std::uint64_t rows;
  std::uint64_t groups;  // of a row
  std::uint64_t band_rows;
  std::uint64_t block_groups;  // of a row of a block
  std::uint64_t cols;          // blocks of a band
};

class Fp8CodesExpression final : public Expression {
 public:
  Fp8CodesExpression(const ScaledWeight& weight, quant::BlockShape block)
      : Expression(Dtype::kF8E4M3, {weight.rows, weight.cols}),
        weight_(weight),
        blocks_(weight, block) {}

  std::string_view rule() const override { return "repack"; }
  std::string parameters() const override { return blocks_.Text(); }
  std::vector<std::uint32_t> streamed_sources() const override { return {weight_.weight}; }
  std::vector<std::uint32_t> side_sources() const override { return {weight_.scale}; }

  // Between groups.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position / kGroup * kGroup;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + kGroup;
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({weight_.weight, begin / 2, end / 2});
    const ByteRange scales = blocks_.ScalesOf(BandOf(begin), BandOf(end - 1) + 1);
    reads.push_back({weight_.scale, scales.begin, scales.end});
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::uint64_t first_scale = blocks_.ScalesOf(BandOf(begin), BandOf(begin)).begin;
    const std::uint8_t* codes = Codes(inputs[0]);
    auto* to = reinterpret_cast<std::uint8_t*>(out.value.data());
    std::vector<std::uint8_t> block_scales;
    std::uint64_t band = UINT64_MAX;
    for (std::uint64_t group = begin / kGroup; group < end / kGroup; ++group) {
      const std::uint64_t row = group / blocks_.groups;
      if (row / blocks_.band_rows != band) {
        band = row / blocks_.band_rows;
        const ByteRange range = blocks_.ScalesOf(band, band + 1);
        blocks_.BlockScales(inputs[1].subspan(static_cast<std::size_t>(range.begin - first_scale),
                                              static_cast<std::size_t>(range.size())),
                            block_scales);
      }
      const std::uint64_t block = group % blocks_.groups / blocks_.block_groups;
      quant::E2M1ToE4M3(std::span(codes, kGroup / 2), Codes(inputs[1])[group - first_scale],
                        block_scales[static_cast<std::size_t>(block)], to);
      codes += kGroup / 2;
      to += kGroup;
    }
  }

 private:
  std::uint64_t BandOf(std::uint64_t element) const {
    return element / weight_.cols / blocks_.band_rows;
  }

  ScaledWeight weight_;
  Blocks blocks_;
};

class Fp8ScalesExpression final : public Expression {
 public:
  Fp8ScalesExpression(const ScaledWeight& weight, quant::BlockShape block, Dtype dtype)
      : Expression(dtype, {Blocks(weight, block).bands(), Blocks(weight, block).cols}),
        scale_(weight.scale),
        blocks_(weight, block),
        row_bytes_(blocks_.cols * formats::DtypeBits(dtype) / 8) {}

  std::string_view rule() const override { return kRepackScale; }
  std::string parameters() const override { return blocks_.Text(); }
  std::vector<std::uint32_t> streamed_sources() const override { return {scale_}; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position / row_bytes_ * row_bytes_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + row_bytes_;
  }
  std::uint64_t input_bytes_per_output_byte() const override {
    return CeilDiv(std::min(blocks_.rows, blocks_.band_rows) * blocks_.groups, row_bytes_);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    const ByteRange range = blocks_.ScalesOf(begin / row_bytes_, end / row_bytes_);
    reads.push_back({scale_, range.begin, range.end});
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::byte* to = out.value.data();
    std::vector<std::uint8_t> block_scales;
    const std::uint64_t first = begin / row_bytes_;
    const std::uint64_t first_scale = blocks_.ScalesOf(first, first).begin;
    for (std::uint64_t band = first; band < end / row_bytes_; ++band) {
      const ByteRange range = blocks_.ScalesOf(band, band + 1);
      blocks_.BlockScales(inputs[0].subspan(static_cast<std::size_t>(range.begin - first_scale),
                                            static_cast<std::size_t>(range.size())),
                          block_scales);
      for (const std::uint8_t scale : block_scales) {
        if (dtype() == Dtype::kF32) {
          const float value = quant::DecodeE8M0(scale);
          std::memcpy(to, &value, sizeof value);
          to += sizeof value;
        } else {
          *to++ = std::byte{scale};
        }
      }
    }
  }

 private:
  std::uint32_t scale_;
  Blocks blocks_;
  std::uint64_t row_bytes_;
};

class GroupScalesExpression final : public Expression {
 public:
  GroupScalesExpression(const ScaledWeight& weight, std::shared_ptr<const FoundScales> found)
      : Expression(Dtype::kF8E4M3, {weight.rows, weight.cols / kGroup * 2}),
        scale_(weight.scale),
        found_(std::move(found)) {}

  std::string_view rule() const override { return kRepackScale; }
  std::vector<std::uint32_t> streamed_sources() const override { return {scale_}; }

  // Both groups of 16 columns have the scale of the group of 32.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override { return position / 2 * 2; }
  std::uint64_t CutAfter(std::uint64_t position) const override { return position / 2 * 2 + 2; }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({scale_, begin / 2, end / 2});
  }

  void Evaluate(std::uint64_t, std::uint64_t, std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::array<std::byte, 256> made{};
    for (unsigned scale = 0; scale <= found_->largest; ++scale) {
      made[scale] =
          std::byte{quant::NvFp4GroupScale(static_cast<std::uint8_t>(scale), found_->largest)};
    }
    std::byte* to = out.value.data();
    for (const std::byte scale : inputs[0]) {
      to[0] = to[1] = made[std::to_integer<std::size_t>(scale)];
      to += 2;
    }
  }

 private:
  std::uint32_t scale_;
  std::shared_ptr<const FoundScales> found_;
};

// One F32 value.
class ValueExpression : public Expression {
 public:
  explicit ValueExpression(Shape shape) : Expression(Dtype::kF32, std::move(shape)) {
    if (num_bytes() != sizeof(float)) {
      throw Error(ErrorCode::kInternal, "a scale of a tensor with several values was planned");
    }
  }

  std::string_view rule() const override { return kRepackScale; }

 protected:
  static void Write(float value, std::uint64_t begin, EvaluationOutput& out) {
    std::byte bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    std::memcpy(out.value.data(), bytes + begin, out.value.size());
  }
};

class FoundExpression final : public ValueExpression {
 public:
  // Streams `first`, or where `was_found_in` holds takes nothing of it any more.
  FoundExpression(std::uint32_t first, std::vector<std::uint32_t> others, bool was_found_in,
                  Shape shape, std::shared_ptr<const FoundScales> found)
      : ValueExpression(std::move(shape)),
        first_(first),
        others_(std::move(others)),
        was_found_in_(was_found_in),
        found_(std::move(found)) {}

  std::vector<std::uint32_t> streamed_sources() const override { return {first_}; }
  std::vector<std::uint32_t> side_sources() const override { return others_; }
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    if (!was_found_in_) reads.push_back({first_, begin, end});
  }
  void Evaluate(std::uint64_t begin, std::uint64_t, std::span<const std::span<const std::byte>>,
                EvaluationOutput& out) const override {
    Write(found_->tensor_scale, begin, out);
  }

 private:
  std::uint32_t first_;
  std::vector<std::uint32_t> others_;
  bool was_found_in_;
  std::shared_ptr<const FoundScales> found_;
};

class ReciprocalExpression final : public ValueExpression {
 public:
  ReciprocalExpression(std::uint32_t scale, Shape shape)
      : ValueExpression(std::move(shape)), scale_(scale) {}

  std::vector<std::uint32_t> streamed_sources() const override { return {scale_}; }
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({scale_, begin, end});
  }
  void Evaluate(std::uint64_t begin, std::uint64_t,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    float value = 0;
    std::memcpy(&value, inputs[0].data(), sizeof value);
    Write(quant::Reciprocal(value), begin, out);
  }

 private:
  std::uint32_t scale_;
};

class ConstantExpression final : public ValueExpression {
 public:
  ConstantExpression(float value, Shape shape) : ValueExpression(std::move(shape)), value_(value) {}

  std::string parameters() const override { return fmt::format("{}", value_); }
  std::vector<std::uint32_t> streamed_sources() const override { return {}; }
  bool streams_whole_source() const override { return false; }
  void AppendReads(std::uint64_t, std::uint64_t, std::vector<SourceRange>&) const override {}
  void Evaluate(std::uint64_t begin, std::uint64_t, std::span<const std::span<const std::byte>>,
                EvaluationOutput& out) const override {
    Write(value_, begin, out);
  }

 private:
  float value_;
};

void CheckMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                quant::BlockShape block = {128, 128}) {
  const CatalogTensor& codes = catalog.tensors()[weight.weight];
  const bool right =
      block.rows != 0 && block.cols != 0 && block.cols % kGroup == 0 && weight.matrices == 1 &&
      weight.format == quant::CodeFormat::kE2M1 &&
      weight.scale_format == quant::ScaleFormat::kE8M0 &&
      weight.block == quant::BlockShape{1, kGroup} && weight.cols % kGroup == 0 &&
      codes.extent.length * 2 == weight.rows * weight.cols &&
      catalog.tensors()[weight.scale].extent.length * kGroup == weight.rows * weight.cols;
  if (!right) {
    throw Error(ErrorCode::kInternal, "an unchecked weight reached the plan of a repack",
                {"", codes.name});
  }
}

}  // namespace

ExpressionPtr Fp8OfMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                         quant::BlockShape block) {
  CheckMxFp4(catalog, weight, block);
  return std::make_shared<Fp8CodesExpression>(weight, block);
}

ExpressionPtr Fp8ScalesOfMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                               quant::BlockShape block, Dtype dtype) {
  CheckMxFp4(catalog, weight, block);
  return std::make_shared<Fp8ScalesExpression>(weight, block, dtype);
}

ExpressionPtr GroupScalesOfMxFp4(const Catalog& catalog, const ScaledWeight& weight,
                                 std::shared_ptr<const FoundScales> found) {
  CheckMxFp4(catalog, weight);
  return std::make_shared<GroupScalesExpression>(weight, std::move(found));
}

ExpressionPtr TensorScaleOfMxFp4(std::uint32_t own, std::vector<std::uint32_t> others, Shape shape,
                                 std::shared_ptr<const FoundScales> found) {
  return std::make_shared<FoundExpression>(own, std::move(others), true, std::move(shape),
                                           std::move(found));
}

ExpressionPtr OtherTensorScaleOf(std::uint32_t tensor_scale, std::uint32_t group_scales,
                                 Shape shape, std::shared_ptr<const FoundScales> found) {
  return std::make_shared<FoundExpression>(tensor_scale, std::vector<std::uint32_t>{group_scales},
                                           false, std::move(shape), std::move(found));
}

ExpressionPtr ReciprocalOf(std::uint32_t scale, Shape shape) {
  return std::make_shared<ReciprocalExpression>(scale, std::move(shape));
}

ExpressionPtr ConstantScale(float value, Shape shape) {
  return std::make_shared<ConstantExpression>(value, std::move(shape));
}

}  // namespace dsv3::convert

#include "convert/plan/unpack_expression.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "convert/packing/chunk_coder.h"

namespace dsv3::convert {
namespace {

class UnpackExpression final : public Expression {
 public:
  UnpackExpression(std::uint32_t stored, formats::Dtype dtype, formats::Shape shape,
                   PackedTensorPlace place, ExpressionPtr base)
      : Expression(dtype, std::move(shape)),
        stored_(stored),
        place_(std::move(place)),
        base_(std::move(base)) {}

  std::string_view rule() const override { return "unpack"; }
  std::vector<std::uint32_t> streamed_sources() const override {
    std::vector<std::uint32_t> sources = {stored_};
    if (base_) {
      const std::vector<std::uint32_t> more = base_->streamed_sources();
      sources.insert(sources.end(), more.begin(), more.end());
    }
    return sources;
  }
  std::vector<std::uint32_t> side_sources() const override {
    return base_ ? base_->side_sources() : std::vector<std::uint32_t>();
  }
  // The seek table is read apart.
  bool streams_whole_source() const override { return false; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % place_.stream.chunk_bytes;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(num_bytes(), CutAtOrBefore(position) + place_.stream.chunk_bytes);
  }
  // What is unpacked, and what planes are joined from.
  std::uint64_t input_bytes_per_output_byte() const override {
    return base_ ? 3 + base_->input_bytes_per_output_byte() : 2;
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    const std::shared_ptr<const PackedChunks> chunks = Chunks();
    const PackedChunk& first = chunks->chunks[IndexAt(begin)];
    const PackedChunk& last = chunks->chunks[IndexAt(end - 1)];
    reads.push_back({stored_, first.offset - place_.stream.offset,
                     last.offset + last.bytes - place_.stream.offset});
    if (!base_) return;
    const ByteRange around = PiecesAround(*base_, {begin, end});
    base_->AppendReads(around.begin, around.end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    thread_local ChunkDecoder decoder;
    std::vector<std::byte> buffer;
    const std::span<const std::byte> base = BaseOf({begin, end}, inputs.subspan(1), buffer);
    const std::shared_ptr<const PackedChunks> chunks = Chunks();
    const std::uint64_t input_begin = chunks->chunks[IndexAt(begin)].offset;
    for (std::uint64_t position = begin; position < end;) {
      const PackedChunk& chunk = chunks->chunks[IndexAt(position)];
      const auto place = static_cast<std::size_t>(position - begin);
      decoder.Decode(
          inputs[0].subspan(static_cast<std::size_t>(chunk.offset - input_begin), chunk.bytes),
          chunks->FramesOf(chunk), base.empty() ? base : base.subspan(place, chunk.raw_bytes),
          {place_.source->name, place_.stream.tensor, IndexAt(position)},
          out.value.subspan(place, chunk.raw_bytes));
      position += chunk.raw_bytes;
    }
  }

 private:
  // The base's bytes of the range, which `inputs` make.
  std::span<const std::byte> BaseOf(ByteRange range,
                                    std::span<const std::span<const std::byte>> inputs,
                                    std::vector<std::byte>& buffer) const {
    if (!base_) return {};
    const ByteRange around = PiecesAround(*base_, range);
    buffer.resize(static_cast<std::size_t>(around.size()));
    EvaluationOutput made{buffer, {}, {}};
    base_->Evaluate(around.begin, around.end, inputs, made);
    return std::span(buffer).subspan(static_cast<std::size_t>(range.begin - around.begin),
                                     static_cast<std::size_t>(range.size()));
  }

  std::shared_ptr<const PackedChunks> Chunks() const {
    return place_.tables->Of(place_.source, place_.stream);
  }
  // All chunks but the last have one length.
  std::size_t IndexAt(std::uint64_t position) const {
    return static_cast<std::size_t>(position / place_.stream.chunk_bytes);
  }

  const std::uint32_t stored_;
  const PackedTensorPlace place_;
  const ExpressionPtr base_;
};

}  // namespace

ExpressionPtr Unpack(std::uint32_t stored, formats::Dtype dtype, formats::Shape shape,
                     PackedTensorPlace place, ExpressionPtr base) {
  return std::make_shared<const UnpackExpression>(stored, dtype, std::move(shape), std::move(place),
                                                  std::move(base));
}

}  // namespace dsv3::convert

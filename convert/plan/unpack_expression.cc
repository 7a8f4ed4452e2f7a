#include "convert/plan/unpack_expression.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "convert/packing/chunk_coder.h"

namespace dsv3::convert {
namespace {

class UnpackExpression final : public Expression {
 public:
  UnpackExpression(const Catalog& catalog, std::uint32_t stream, PackedTensorPlace place,
                   ExpressionPtr base)
      : Expression(place.source->file.tensors()[place.tensor].dtype,
                   place.source->file.tensors()[place.tensor].shape),
        stream_(stream),
        stream_offset_(catalog.tensors()[stream].extent.offset),
        place_(std::move(place)),
        chunk_bytes_(place_.source->file.chunk_bytes()),
        base_(std::move(base)) {}

  std::string_view rule() const override { return "unpack"; }
  std::vector<std::uint32_t> streamed_sources() const override {
    std::vector<std::uint32_t> sources = {stream_};
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
    return position - position % chunk_bytes_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(num_bytes(), CutAtOrBefore(position) + chunk_bytes_);
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
    reads.push_back(
        {stream_, first.offset - stream_offset_, last.offset + last.bytes - stream_offset_});
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
          {place_.source->name, TensorName(), IndexAt(position)},
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
    return place_.tables->Of(place_.source, place_.tensor);
  }
  // All chunks but the last have one length.
  std::size_t IndexAt(std::uint64_t position) const {
    return static_cast<std::size_t>(position / chunk_bytes_);
  }
  const std::string& TensorName() const {
    return place_.source->file.tensors()[place_.tensor].name;
  }

  const std::uint32_t stream_;
  const std::uint64_t stream_offset_;
  const PackedTensorPlace place_;
  const std::uint64_t chunk_bytes_;
  const ExpressionPtr base_;
};

}  // namespace

ExpressionPtr Unpack(const Catalog& catalog, std::uint32_t stream, PackedTensorPlace place,
                     ExpressionPtr base) {
  return std::make_shared<const UnpackExpression>(catalog, stream, std::move(place),
                                                  std::move(base));
}

}  // namespace dsv3::convert

#include "convert/plan/apply_delta.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/zstd_stream.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 20;
constexpr std::size_t kSkippedBytes = std::size_t{1} << 17;

std::uint64_t NextId() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// The content of a frame from any byte on; what was decoded last is where it goes on.
class FrameReader {
 public:
  std::string_view Read(std::uint64_t id, std::span<const std::byte> frame,
                        std::uint64_t content_bytes, std::uint64_t begin,
                        std::span<std::byte> content) {
    if (id != id_ || begin < decoder_.position()) {
      id_ = 0;
      const std::string_view fault = decoder_.Begin(frame, content_bytes);
      if (!fault.empty()) return fault;
    }
    id_ = 0;  // until all went well
    std::vector<std::byte> skipped(kSkippedBytes);
    while (decoder_.position() < begin) {
      const std::string_view fault = decoder_.Read(
          frame, std::span(skipped).first(static_cast<std::size_t>(
                     std::min<std::uint64_t>(skipped.size(), begin - decoder_.position()))));
      if (!fault.empty()) return fault;
    }
    const std::string_view fault = decoder_.Read(frame, content);
    if (fault.empty()) id_ = id;
    return fault;
  }

 private:
  formats::ZstdStreamDecoder decoder_;
  std::uint64_t id_ = 0;
};

// What an overwrite changes, by position.
struct Overwrite {
  std::uint64_t id = 0;
  std::vector<std::uint32_t> positions;  // ascending
  std::vector<std::byte> values;

  std::string_view Load(std::span<const std::byte> frame, std::uint64_t tensor_bytes) {
    std::uint64_t bytes = 0;
    constexpr std::uint64_t kCount = sizeof(std::uint32_t);
    constexpr std::uint64_t kEach = sizeof(std::uint32_t) + 1;
    if (!formats::FrameContentBytes(frame, bytes) || bytes < kCount ||
        (bytes - kCount) % kEach != 0 || (bytes - kCount) / kEach > tensor_bytes) {
      return "it does not say that it holds positions and bytes";
    }
    formats::ZstdStreamDecoder decoder;
    std::string_view fault = decoder.Begin(frame, bytes);
    if (!fault.empty()) return fault;
    // What is decoded grows with what is there, whatever the frame says.
    std::vector<std::byte> content;
    while (content.size() < bytes) {
      const auto piece =
          static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, bytes - content.size()));
      content.resize(content.size() + piece);
      fault = decoder.Read(frame, std::span(content).last(piece));
      if (!fault.empty()) return fault;
    }
    std::uint32_t count = 0;
    std::memcpy(&count, content.data(), kCount);
    if (kCount + kEach * count != bytes) return "it has another number of positions than it says";
    positions.resize(count);
    std::memcpy(positions.data(), content.data() + kCount, count * sizeof(std::uint32_t));
    values.assign(content.end() - static_cast<std::ptrdiff_t>(count), content.end());
    Sort();
    if (!positions.empty() && positions.back() >= tensor_bytes) {
      return "it has positions behind the tensor's end";
    }
    return "";
  }

  // Others may write positions in any order, where the last one of two counts.
  void Sort() {
    if (std::is_sorted(positions.begin(), positions.end())) return;
    std::vector<std::size_t> order(positions.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return positions[a] < positions[b]; });
    std::vector<std::uint32_t> sorted_positions;
    std::vector<std::byte> sorted_values;
    for (const std::size_t i : order) {
      sorted_positions.push_back(positions[i]);
      sorted_values.push_back(values[i]);
    }
    positions = std::move(sorted_positions);
    values = std::move(sorted_values);
  }

  void Apply(std::uint64_t begin, std::span<std::byte> value) const {
    const auto first = std::lower_bound(positions.begin(), positions.end(), begin);
    for (auto at = first; at != positions.end() && *at < begin + value.size(); ++at) {
      value[static_cast<std::size_t>(*at - begin)] =
          values[static_cast<std::size_t>(at - positions.begin())];
    }
  }
};

class ApplyDeltaExpression final : public Expression {
 public:
  ApplyDeltaExpression(const Catalog& catalog, std::uint32_t stream, PullEncoding encoding,
                       ExpressionPtr base)
      : Expression(base->dtype(), base->shape()),
        stream_(stream),
        stream_bytes_(catalog.tensors()[stream].extent.length),
        file_(catalog.files()[catalog.tensors()[stream].extent.file].name),
        tensor_(catalog.NameInFile(stream)),
        encoding_(encoding),
        base_(std::move(base)),
        id_(NextId()) {}

  std::string_view rule() const override { return "apply-delta"; }
  std::vector<std::uint32_t> streamed_sources() const override {
    std::vector<std::uint32_t> sources = {stream_};
    const std::vector<std::uint32_t> more = base_->streamed_sources();
    sources.insert(sources.end(), more.begin(), more.end());
    return sources;
  }
  std::vector<std::uint32_t> side_sources() const override { return base_->side_sources(); }
  bool streams_whole_source() const override { return false; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % kPieceBytes;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(num_bytes(), CutAtOrBefore(position) + kPieceBytes);
  }
  std::uint64_t input_bytes_per_output_byte() const override {
    return 3 + base_->input_bytes_per_output_byte();
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    reads.push_back({stream_, 0, stream_bytes_});
    const ByteRange around = PiecesAround(*base_, {begin, end});
    base_->AppendReads(around.begin, around.end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::span<std::byte> value = out.value;
    CopyBase({begin, end}, inputs.subspan(1), value);
    if (encoding_ == PullEncoding::kXor) {
      thread_local FrameReader reader;
      std::vector<std::byte> differences(value.size());
      Check(reader.Read(id_, inputs[0], num_bytes(), begin, differences));
      for (std::size_t i = 0; i < value.size(); ++i) value[i] ^= differences[i];
      return;
    }
    thread_local Overwrite overwrite;
    if (overwrite.id != id_) {
      overwrite.id = 0;
      Check(overwrite.Load(inputs[0], num_bytes()));
      overwrite.id = id_;
    }
    overwrite.Apply(begin, value);
  }

 private:
  // Fills `value` with the base's bytes of the range, which `inputs` make.
  void CopyBase(ByteRange range, std::span<const std::span<const std::byte>> inputs,
                std::span<std::byte> value) const {
    const ByteRange around = PiecesAround(*base_, range);
    std::vector<std::byte> made(static_cast<std::size_t>(around.size()));
    EvaluationOutput out{made, {}, {}};
    base_->Evaluate(around.begin, around.end, inputs, out);
    std::memcpy(value.data(), made.data() + (range.begin - around.begin), value.size());
  }

  void Check(std::string_view fault) const {
    if (fault.empty()) return;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: of the frame of tensor {}, {}; publish the version again, or get "
                            "the file again",
                            formats::ShownPath(file_), QuoteForMessage(tensor_), fault),
                {file_, tensor_});
  }

  const std::uint32_t stream_;
  const std::uint64_t stream_bytes_;
  const std::string file_;
  const std::string tensor_;
  const PullEncoding encoding_;
  const ExpressionPtr base_;
  const std::uint64_t id_;  // never that of another expression
};

}  // namespace

ExpressionPtr ApplyDelta(const Catalog& catalog, std::uint32_t stream, PullEncoding encoding,
                         ExpressionPtr base) {
  return std::make_shared<const ApplyDeltaExpression>(catalog, stream, encoding, std::move(base));
}

}  // namespace dsv3::convert

#include "convert/plan/apply_delta.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/io/unchanged_file.h"
#include "formats/message_text.h"
#include "formats/zstd_stream.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 20;

std::uint64_t NextId() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// The file of a frame. Each thread keeps the last one open.
std::shared_ptr<const formats::InputFile> OpenFile(const DeltaFrame& frame) {
  struct Open {
    std::shared_ptr<const SourceFile> file;
    std::shared_ptr<const formats::InputFile> input;
  };
  thread_local Open open;
  const SourceFile& file = *frame.file;
  if (open.file != frame.file) {
    auto input =
        std::make_shared<const formats::InputFile>(file.path, file.name, formats::DirectIo::kNever);
    formats::RequireUnchanged(*input, file.bytes, file.mtime_ns, frame.tensor);
    open = {frame.file, std::move(input)};
  }
  return open.input;
}

std::string_view Begin(const DeltaFrame& frame, formats::ZstdStreamDecoder& decoder) {
  return decoder.Begin(
      [input = OpenFile(frame), begin = frame.offset](
          std::uint64_t offset, std::span<std::byte> out) { input->ReadAt(begin + offset, out); },
      frame.bytes);
}

// Differences from any byte on; what was decoded last is where it goes on.
class XorReader {
 public:
  std::string_view Read(std::uint64_t id, const DeltaFrame& frame, std::uint64_t tensor_bytes,
                        std::uint64_t begin, std::span<std::byte> differences) {
    const bool goes_on = id == id_ && begin >= decoder_.position();
    id_ = 0;  // until all went well
    std::string_view fault;
    if (!goes_on) {
      fault = Begin(frame, decoder_);
      if (fault.empty() && decoder_.content_bytes() != tensor_bytes) {
        fault = "it does not say that it holds as many bytes as it must";
      }
    }
    if (fault.empty()) fault = decoder_.SkipTo(begin);
    if (fault.empty()) fault = decoder_.Read(differences);
    if (fault.empty()) id_ = id;
    return fault;
  }

 private:
  formats::ZstdStreamDecoder decoder_;
  std::uint64_t id_ = 0;
};

// Positions and bytes of an overwrite, which are read side by side, a piece of each at a time.
class OverwriteReader {
 public:
  std::string_view Apply(std::uint64_t id, const DeltaFrame& frame, std::uint64_t tensor_bytes,
                         ByteRange range, std::span<std::byte> value) {
    const bool is_loaded = id == id_;
    id_ = 0;  // until all went well
    std::string_view fault;
    if (!is_loaded) fault = Load(frame, tensor_bytes);
    if (fault.empty() && (!is_loaded || !ascending_ || range.begin < next_)) fault = Rewind(frame);
    if (fault.empty()) fault = Overwrite(range, value);
    next_ = range.end;
    if (fault.empty()) id_ = id;
    return fault;
  }

 private:
  static constexpr std::uint64_t kCountBytes = sizeof(std::uint32_t);
  static constexpr std::size_t kMostAtATime = std::size_t{1} << 16;

  // Looks at all positions. Others may write them in any order, where the last one of two counts.
  std::string_view Load(const DeltaFrame& frame, std::uint64_t tensor_bytes) {
    std::string_view fault = Begin(frame, positions_);
    if (!fault.empty()) return fault;
    constexpr std::uint64_t kEach = sizeof(std::uint32_t) + 1;
    const std::uint64_t bytes = positions_.content_bytes();
    if (bytes < kCountBytes || (bytes - kCountBytes) % kEach != 0 ||
        (bytes - kCountBytes) / kEach > tensor_bytes) {
      return "it does not say that it holds positions and bytes";
    }
    std::uint32_t count = 0;
    fault = positions_.Read(std::as_writable_bytes(std::span(&count, 1)));
    if (!fault.empty()) return fault;
    if (kCountBytes + kEach * count != bytes)
      return "it has another number of positions than it says";
    count_ = count;
    ascending_ = true;
    std::uint32_t last = 0;
    for (left_ = count_; left_ > 0;) {
      fault = ReadPositions();
      if (!fault.empty()) return fault;
      for (const std::uint32_t position : position_) {
        if (position >= tensor_bytes) return "it has positions behind the tensor's end";
        ascending_ &= position >= last;
        last = position;
      }
    }
    return "";
  }

  std::string_view Rewind(const DeltaFrame& frame) {
    std::string_view fault = Begin(frame, positions_);
    if (fault.empty()) fault = positions_.SkipTo(kCountBytes);
    if (fault.empty()) fault = Begin(frame, bytes_);
    if (fault.empty()) fault = bytes_.SkipTo(kCountBytes + sizeof(std::uint32_t) * count_);
    left_ = count_;
    position_.clear();
    at_ = 0;
    return fault;
  }

  std::string_view ReadPositions() {
    position_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kMostAtATime, left_)));
    left_ -= position_.size();
    return positions_.Read(std::as_writable_bytes(std::span(position_)));
  }

  std::string_view Overwrite(ByteRange range, std::span<std::byte> value) {
    while (at_ < position_.size() || left_ > 0) {
      if (at_ == position_.size()) {
        std::string_view fault = ReadPositions();
        byte_.resize(position_.size());
        at_ = 0;
        if (fault.empty()) fault = bytes_.Read(byte_);
        if (!fault.empty()) return fault;
      }
      for (; at_ < position_.size(); ++at_) {
        const std::uint32_t position = position_[at_];
        if (position >= range.end && ascending_) return "";
        if (position < range.begin || position >= range.end) continue;
        value[static_cast<std::size_t>(position - range.begin)] = byte_[at_];
      }
    }
    return "";
  }

  std::uint64_t id_ = 0;
  std::uint32_t count_ = 0;
  bool ascending_ = false;
  std::uint64_t next_ = 0;  // where the last range ended
  formats::ZstdStreamDecoder positions_;
  formats::ZstdStreamDecoder bytes_;
  std::uint64_t left_ = 0;  // positions that were not read
  // The piece at hand, and what of it comes next.
  std::vector<std::uint32_t> position_;
  std::vector<std::byte> byte_;
  std::size_t at_ = 0;
};

class ApplyDeltaExpression final : public Expression {
 public:
  ApplyDeltaExpression(DeltaFrame frame, PullEncoding encoding, ExpressionPtr base)
      : Expression(base->dtype(), base->shape()),
        frame_(std::move(frame)),
        encoding_(encoding),
        base_(std::move(base)),
        id_(NextId()) {}

  std::string_view rule() const override { return "apply-delta"; }
  std::vector<std::uint32_t> streamed_sources() const override {
    std::vector<std::uint32_t> sources = {frame_.stream};
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
    const ByteRange around = PiecesAround(*base_, {begin, end});
    base_->AppendReads(around.begin, around.end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const std::span<std::byte> value = out.value;
    CopyBase({begin, end}, inputs, value);
    if (encoding_ == PullEncoding::kOverwrite) {
      thread_local OverwriteReader reader;
      Check(reader.Apply(id_, frame_, num_bytes(), {begin, end}, value));
      return;
    }
    thread_local XorReader reader;
    std::vector<std::byte> differences(value.size());
    Check(reader.Read(id_, frame_, num_bytes(), begin, differences));
    for (std::size_t i = 0; i < value.size(); ++i) value[i] ^= differences[i];
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
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: of the frame of tensor {}, {}; publish the version again, or get "
                    "the file again",
                    formats::ShownPath(frame_.file->name), QuoteForMessage(frame_.tensor), fault),
        {frame_.file->name, frame_.tensor});
  }

  const DeltaFrame frame_;
  const PullEncoding encoding_;
  const ExpressionPtr base_;
  const std::uint64_t id_;  // never that of another expression
};

}  // namespace

ExpressionPtr ApplyDelta(DeltaFrame frame, PullEncoding encoding, ExpressionPtr base) {
  return std::make_shared<const ApplyDeltaExpression>(std::move(frame), encoding, std::move(base));
}

}  // namespace dsv3::convert

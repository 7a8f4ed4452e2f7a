#include "convert/stream/source_files.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>

#include "formats/io/open_files.h"
#include "formats/io/unchanged_file.h"

namespace dsv3::convert {
namespace {

// Ranges that lie close together are cheaper to read as one. What lies between them takes memory
// too: no more than this for all ranges of one call, however many tiny tensors are scattered.
constexpr std::uint64_t kMaxGapBytes = 16 << 10;
// Smaller reads go through the page cache, whose read-ahead serves the neighbours.
constexpr std::uint64_t kMinStreamingBytes = 128 << 10;
// Of values that expressions write.
constexpr std::size_t kDerivedAlignment = 64;

struct Request {
  SourceFiles* files = nullptr;  // whose `file` it is
  std::uint32_t file = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::size_t buffer_offset = 0;

  std::size_t length() const { return static_cast<std::size_t>(end - begin); }
  bool streaming() const { return end - begin >= kMinStreamingBytes; }
  std::size_t buffer_bytes() const {
    return streaming() ? formats::InputFile::ScratchBytes(length())
                       : static_cast<std::size_t>(formats::AlignUp(length(), 64));
  }
};

}  // namespace

SourceFiles::SourceFiles(const Catalog& catalog, const std::vector<DerivedTensors>& derived)
    : catalog_(catalog),
      // Each by up to two descriptors, and as many for output files.
      max_open_(std::min(kMaxOpen, formats::OpenFileBudget() / 4)),
      checks_(catalog) {
  for (const DerivedTensors& tensors : derived) {
    derived_.push_back({tensors, std::make_unique<SourceFiles>(*tensors.stored)});
  }
}

std::uint64_t SourceFiles::bytes_read() const {
  std::uint64_t bytes = bytes_read_.load(std::memory_order_relaxed);
  for (const Derived& derived : derived_) bytes += derived.stored->bytes_read();
  return bytes;
}

const SourceFiles::Derived* SourceFiles::DerivedOf(std::uint32_t tensor) const {
  const auto found = std::find_if(derived_.begin(), derived_.end(), [&](const Derived& derived) {
    return derived.tensors.Holds(tensor);
  });
  return found == derived_.end() ? nullptr : &*found;
}

// Writes bytes of a derived tensor to `out`. Where the origin cannot be cut at the range's ends,
// the whole pieces around them are made.
void SourceFiles::Make(const Derived& derived, const SourceRange& range,
                       std::span<std::byte> out) const {
  if (out.empty()) return;
  const Expression& origin = derived.tensors.OriginOf(range.tensor);
  const auto [begin, end] = PiecesAround(origin, {range.begin, range.end});
  std::vector<SourceRange> reads;
  origin.AppendReads(begin, end, reads);
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  derived.stored->Read(reads, buffer, inputs);
  for (std::size_t i = 0; observer_ && i < reads.size(); ++i) observer_(reads[i], inputs[i]);
  if (begin == range.begin && end == range.end) {
    EvaluationOutput made{out, {}, {}};
    return origin.Evaluate(begin, end, inputs, made);
  }
  formats::AlignedBuffer whole(static_cast<std::size_t>(end - begin));
  const std::span<std::byte> value = whole.span().first(static_cast<std::size_t>(end - begin));
  EvaluationOutput made{value, {}, {}};
  origin.Evaluate(begin, end, inputs, made);
  std::memcpy(out.data(), value.data() + (range.begin - begin), out.size());
}

std::shared_ptr<const formats::InputFile> SourceFiles::Get(std::uint32_t file) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(open_.begin(), open_.end(), [&](const Open& open) { return open.file == file; });
  if (found != open_.end()) {
    open_.splice(open_.begin(), open_, found);
    return found->input;
  }
  const SourceFile& source = catalog_.files()[file];
  auto input = std::make_shared<const formats::InputFile>(source.path, source.DisplayName());
  formats::RequireUnchanged(*input, source.bytes, source.mtime_ns, "");
  if (open_.size() >= max_open_) open_.pop_back();
  open_.push_front({file, input});
  return input;
}

SourceFiles& SourceFiles::stored() {
  const bool derived = !derived_.empty() && derived_.front().tensors.first == 0;
  return derived ? *derived_.front().stored : *this;
}

void SourceFiles::Close(std::uint32_t file) {
  const std::lock_guard lock(mutex_);
  open_.remove_if([&](const Open& open) { return open.file == file; });
}

void SourceFiles::Read(std::span<const SourceRange> ranges, formats::AlignedBuffer& buffer,
                       std::vector<std::span<const std::byte>>& inputs) {
  std::vector<Request> wanted(ranges.size());
  std::vector<const Derived*> derived_of(ranges.size(), nullptr);
  std::vector<std::optional<SourceRange>> stored_of(ranges.size());
  std::vector<std::size_t> order;
  order.reserve(ranges.size());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    SourceFiles* files = this;
    SourceRange range = ranges[i];
    if (!derived_.empty()) derived_of[i] = DerivedOf(range.tensor);
    // What lies in a file as it is need not be made.
    if (derived_of[i] != nullptr && range.begin < range.end) {
      stored_of[i] = derived_of[i]->tensors.OriginOf(range.tensor).AsStored(range.begin, range.end);
      if (stored_of[i]) {
        files = derived_of[i]->stored.get();
        range = *stored_of[i];
        derived_of[i] = nullptr;
      }
    }
    const Extent& extent = files->catalog_.tensors()[range.tensor].extent;
    wanted[i] = {files, extent.file, extent.offset + range.begin, extent.offset + range.end, 0};
    if (derived_of[i] == nullptr) order.push_back(i);
  }
  const std::less<SourceFiles*> before;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (wanted[a].files != wanted[b].files) return before(wanted[a].files, wanted[b].files);
    return std::pair(wanted[a].file, wanted[a].begin) < std::pair(wanted[b].file, wanted[b].begin);
  });

  std::vector<Request> requests;
  std::vector<std::size_t> request_of(ranges.size());
  std::uint64_t gap_bytes_left = kMaxGapBytes;
  for (const std::size_t i : order) {
    if (!requests.empty() && requests.back().files == wanted[i].files &&
        requests.back().file == wanted[i].file &&
        wanted[i].begin <= requests.back().end + gap_bytes_left) {
      Request& last = requests.back();
      gap_bytes_left -= wanted[i].begin - std::min(wanted[i].begin, last.end);
      last.end = std::max(last.end, wanted[i].end);
    } else {
      requests.push_back(wanted[i]);
    }
    request_of[i] = requests.size() - 1;
  }

  std::size_t buffer_bytes = 0;
  for (Request& request : requests) {
    if (request.streaming()) {
      buffer_bytes =
          static_cast<std::size_t>(formats::AlignUp(buffer_bytes, formats::kDirectAlignment));
    }
    request.buffer_offset = buffer_bytes;
    buffer_bytes += request.buffer_bytes();
  }
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (derived_of[i] == nullptr) continue;
    wanted[i].buffer_offset =
        static_cast<std::size_t>(formats::AlignUp(buffer_bytes, kDerivedAlignment));
    buffer_bytes = wanted[i].buffer_offset + wanted[i].length();
  }
  if (buffer.size() < buffer_bytes) {
    buffer = formats::AlignedBuffer();  // the old one goes before the new one comes
    buffer = formats::AlignedBuffer(buffer_bytes);
  }

  std::vector<std::span<const std::byte>> read(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Request& request = requests[i];
    SourceFiles& files = *request.files;
    const auto input = files.Get(request.file);
    const std::span<std::byte> room =
        buffer.span().subspan(request.buffer_offset, request.buffer_bytes());
    if (request.streaming()) {
      read[i] = input->ReadStreaming(request.begin, request.length(), room);
    } else {
      input->ReadAt(request.begin, room.first(request.length()));
      read[i] = room.first(request.length());
    }
    files.checks_.Add(request.file, request.begin, read[i]);
    files.bytes_read_.fetch_add(request.length(), std::memory_order_relaxed);
  }
  inputs.resize(ranges.size());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (derived_of[i] != nullptr) {
      const std::span<std::byte> made =
          buffer.span().subspan(wanted[i].buffer_offset, wanted[i].length());
      Make(*derived_of[i], ranges[i], made);
      inputs[i] = made;
      continue;
    }
    const Request& request = requests[request_of[i]];
    inputs[i] = read[request_of[i]].subspan(
        static_cast<std::size_t>(wanted[i].begin - request.begin), wanted[i].length());
    if (observer_ && stored_of[i]) observer_(*stored_of[i], inputs[i]);
  }
}

}  // namespace dsv3::convert

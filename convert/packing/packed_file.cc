#include "convert/packing/packed_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "convert/packing/chunk_coder.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/name_table.h"
#include "formats/number_of.h"
#include "formats/zstd_frame.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::SafetensorsHeader;
using formats::SafetensorsTensor;

// Keys of the packed header's metadata.
constexpr std::string_view kVersionKey = "packed_version";
constexpr std::string_view kHeaderKey = "header";
constexpr std::string_view kChunkBytesKey = "chunk_bytes";
constexpr std::string_view kOriginalBytesKey = "original_bytes";

constexpr std::string_view kVersion = "1";
constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeadBytes = formats::kMaxSafetensorsHeaderBytes + kLengthBytes;
constexpr std::string_view kRestore = "restore the file from where it came from";

[[noreturn]] void Fail(const std::string& file, const std::string& tensor,
                       const std::string& problem, std::string_view advice = kRestore) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}; {}", formats::ShownPath(file), problem, advice),
              {.file = file, .tensor = tensor});
}

const std::string& MetadataOf(const SafetensorsHeader& header, std::string_view key,
                              const std::string& file) {
  for (const auto& [name, value] : header.metadata) {
    if (name == key) return value;
  }
  Fail(file, "", fmt::format("its metadata has no \"{}\", so it is no packed file", key),
       "a packed file is made by dsv3-convert pack");
}

template <typename T>
T NumberFrom(const SafetensorsHeader& header, std::string_view key, const std::string& file) {
  const std::string& text = MetadataOf(header, key, file);
  const std::optional<T> number = formats::NumberOf<T>(text);
  if (!number) {
    Fail(file, "",
         fmt::format("its metadata says \"{}\": {}, and a number of bytes is expected", key,
                     QuoteForMessage(text)));
  }
  return *number;
}

// Positions of the packed file's tensors by their names.
class TensorsByName {
 public:
  explicit TensorsByName(const SafetensorsHeader& header)
      : tensors_(header.tensors), names_(header.tensors.size()) {
    for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
      names_.Add(i, formats::HashName(NameAt(i)), [this](std::uint32_t at) { return NameAt(at); });
    }
  }

  // The bytes of the file that hold it. Throws where there is no such tensor of bytes.
  const SafetensorsTensor& Find(const std::string& name, const std::string& file) const {
    const std::uint32_t found = names_.Find(name, [this](std::uint32_t at) { return NameAt(at); });
    if (found == formats::NameTable::kNone) {
      Fail(file, name, fmt::format("it lacks tensor {} of the original", QuoteForMessage(name)));
    }
    const SafetensorsTensor& tensor = tensors_[found];
    if (tensor.dtype != Dtype::kU8 || tensor.shape.size() != 1) {
      Fail(file, name,
           fmt::format("tensor {} is {} {}, and a vector of U8 is expected", QuoteForMessage(name),
                       formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape)));
    }
    return tensor;
  }

 private:
  std::string_view NameAt(std::uint32_t at) const { return tensors_[at].name; }

  const std::vector<SafetensorsTensor>& tensors_;
  formats::NameTable names_;
};

std::string ReadOriginalHead(const formats::InputFile& file, const SafetensorsTensor& tensor,
                             std::uint64_t data_offset) {
  const std::uint64_t bytes = tensor.end - tensor.begin;
  if (bytes > formats::ZstdFrameBound(kMaxHeadBytes)) {
    Fail(file.name(), tensor.name, "the frame of the original's header is too large for one");
  }
  std::vector<std::byte> frame(bytes);
  file.ReadAt(data_offset + tensor.begin, frame);
  std::string head;
  const std::string_view fault = formats::ZstdDecoder().DecodeText(frame, kMaxHeadBytes, head);
  if (!fault.empty()) {
    Fail(file.name(), tensor.name, fmt::format("of the frame of the original's header, {}", fault));
  }
  std::uint64_t length = 0;
  if (head.size() >= kLengthBytes) std::memcpy(&length, head.data(), sizeof length);
  if (head.size() < kLengthBytes || length != head.size() - kLengthBytes) {
    Fail(file.name(), tensor.name, "the original's header has another length than it says");
  }
  return head;
}

std::uint64_t NumChunks(std::uint64_t raw_bytes, std::uint64_t chunk_bytes) {
  return raw_bytes / chunk_bytes + (raw_bytes % chunk_bytes != 0 ? 1 : 0);
}

// Parts the frames into chunks, which begin where a frame has no content. Returns what is wrong.
std::string_view PartIntoChunks(const PackedStream& stream, PackedChunks& chunks) {
  std::uint64_t offset = stream.offset;
  std::uint64_t raw_begin = 0;
  for (std::size_t first = 0; first < chunks.frames.size();) {
    PackedChunk chunk{.raw_begin = raw_begin, .offset = offset, .first_frame = first};
    if (chunks.frames[first].content_bytes != 0) {
      return "its seek table lacks the frame that says the coding of its first chunk";
    }
    if (raw_begin == stream.raw_bytes) return "its seek table names more chunks than it has";
    chunk.raw_bytes = std::min<std::uint64_t>(stream.chunk_bytes, stream.raw_bytes - raw_begin);
    std::uint64_t bytes = 0;
    std::size_t next = first;
    do {
      bytes += chunks.frames[next++].frame_bytes;
    } while (next < chunks.frames.size() && chunks.frames[next].content_bytes != 0);
    if (next - first > kMaxChunkFrames || bytes > PackedChunkBound(chunk.raw_bytes)) {
      return "its seek table names a chunk that is larger than one can be";
    }
    chunk.bytes = bytes;
    chunk.num_frames = next - first;
    chunks.chunks.push_back(chunk);
    raw_begin += chunk.raw_bytes;
    offset += bytes;
    first = next;
  }
  return raw_begin == stream.raw_bytes ? "" : "its seek table names fewer chunks than it has";
}

// The most bytes that the stream of a tensor of `raw_bytes` takes, seek table included.
std::uint64_t StreamBound(std::uint64_t raw_bytes) {
  const std::uint64_t chunks = NumPackedChunks(raw_bytes);
  const std::uint64_t whole = raw_bytes / kPackedChunkBytes;
  const std::size_t rest = raw_bytes % kPackedChunkBytes;
  return whole * PackedChunkBound(kPackedChunkBytes) + (rest == 0 ? 0 : PackedChunkBound(rest)) +
         formats::SeekTableBytes(chunks * kMaxChunkFrames);
}

}  // namespace

std::uint64_t NumPackedChunks(std::uint64_t raw_bytes) {
  return NumChunks(raw_bytes, kPackedChunkBytes);
}

PackedFileLayout::PackedFileLayout(std::string_view original_head,
                                   const SafetensorsHeader& original)
    : header_name_("__header__"), original_bytes_(original.file_bytes) {
  std::vector<std::uint64_t> bounds;
  names_.reserve(original.tensors.size());
  bounds.reserve(original.tensors.size());
  for (const SafetensorsTensor& tensor : original.tensors) {
    names_.push_back(tensor.name);
    bounds.push_back(StreamBound(tensor.end - tensor.begin));
  }
  while (std::find(names_.begin(), names_.end(), header_name_) != names_.end()) header_name_ += '_';
  header_frame_.resize(formats::ZstdFrameBound(original_head.size()));
  header_frame_.resize(formats::ZstdEncoder().Encode(
      std::as_bytes(std::span(original_head)), formats::ZstdMethod::kText,
      std::as_writable_bytes(std::span(header_frame_))));
  // No stream is larger than its bound, so no number in the header is longer.
  header_bytes_ = HeaderText(bounds).size();
  max_bytes_ = streams_offset();
  for (const std::uint64_t bound : bounds) max_bytes_ += bound;
}

std::string PackedFileLayout::HeaderText(std::span<const std::uint64_t> stream_bytes) const {
  std::vector<SafetensorsTensor> tensors;
  tensors.reserve(names_.size() + 1);
  std::uint64_t offset = 0;
  const auto add = [&](const std::string& name, std::uint64_t bytes) {
    tensors.push_back({.name = name,
                       .dtype = Dtype::kU8,
                       .shape = {bytes},
                       .begin = offset,
                       .end = offset + bytes});
    offset += bytes;
  };
  add(header_name_, header_frame_.size());
  for (std::size_t i = 0; i < names_.size(); ++i) add(names_[i], stream_bytes[i]);
  return formats::SerializeSafetensorsHeader(
      tensors, {{std::string(kVersionKey), std::string(kVersion)},
                {std::string(kHeaderKey), header_name_},
                {std::string(kChunkBytesKey), std::to_string(kPackedChunkBytes)},
                {std::string(kOriginalBytesKey), std::to_string(original_bytes_)}});
}

std::string PackedFileLayout::Head(std::span<const std::uint64_t> stream_bytes) const {
  std::string head = HeaderText(stream_bytes);
  if (stream_bytes.size() != names_.size() || head.size() > header_bytes_) {
    throw Error(ErrorCode::kInternal, "the streams of a packed file are larger than they can be");
  }
  head.resize(header_bytes_, ' ');
  const std::uint64_t length = header_bytes_ - kLengthBytes;
  std::memcpy(head.data(), &length, sizeof length);
  return head + header_frame_;
}

PackedHead ReadPackedHead(const formats::InputFile& file) {
  const std::string& name = file.name();
  const SafetensorsHeader packed = formats::ReadSafetensorsHeader(file);
  const std::string& version = MetadataOf(packed, kVersionKey, name);
  if (version != kVersion) {
    Fail(name, "",
         fmt::format("it is a packed file of version {}, and this program knows version {} alone",
                     QuoteForMessage(version), kVersion),
         "unpack it with the program that packed it, or a newer one");
  }
  const auto chunk_bytes = NumberFrom<std::size_t>(packed, kChunkBytesKey, name);
  if (chunk_bytes == 0 || chunk_bytes % 8 != 0 || chunk_bytes > kMaxPackedChunkBytes) {
    Fail(name, "",
         fmt::format("its metadata says that chunks have {}, and a multiple of 8 bytes up to {} is "
                     "expected",
                     formats::ExactBytes(chunk_bytes), formats::ExactBytes(kMaxPackedChunkBytes)));
  }
  const auto original_bytes = NumberFrom<std::uint64_t>(packed, kOriginalBytesKey, name);
  const TensorsByName by_name(packed);
  PackedHead head{
      .digest = packed.digest,
      .original_head = ReadOriginalHead(
          file, by_name.Find(MetadataOf(packed, kHeaderKey, name), name), packed.data_offset),
      .original = {},
      .streams = {}};
  if (original_bytes < head.original_head.size()) {
    Fail(name, "", "its metadata says that the original is shorter than its header");
  }
  head.original = formats::ParseSafetensorsHeader(std::as_bytes(std::span(head.original_head)),
                                                  original_bytes, name);
  if (packed.tensors.size() != head.original.tensors.size() + 1) {
    Fail(name, "",
         fmt::format("it has {} tensors beside the header, and the original has {}",
                     packed.tensors.size() - 1, head.original.tensors.size()));
  }
  head.streams.reserve(head.original.tensors.size());
  for (const SafetensorsTensor& tensor : head.original.tensors) {
    const SafetensorsTensor& stream = by_name.Find(tensor.name, name);
    head.streams.push_back({.tensor = tensor.name,
                            .raw_bytes = tensor.end - tensor.begin,
                            .chunk_bytes = chunk_bytes,
                            .offset = packed.data_offset + stream.begin,
                            .bytes = stream.end - stream.begin});
  }
  return head;
}

PackedChunks ReadPackedChunks(const formats::InputFile& file, const PackedStream& stream) {
  const auto check = [&](std::string_view fault) {
    if (fault.empty()) return;
    Fail(file.name(), stream.tensor,
         fmt::format("of the stream of tensor {}, {}", QuoteForMessage(stream.tensor), fault));
  };
  const std::uint64_t end = stream.offset + stream.bytes;
  std::array<std::byte, formats::kSeekFooterBytes> footer{};
  if (stream.bytes < footer.size()) check("there are fewer bytes than a seek table has");
  file.ReadAt(end - footer.size(), footer);
  std::uint64_t table_bytes = 0;
  check(formats::SeekTableBytesOf(footer, stream.bytes, table_bytes));
  const std::uint64_t num_chunks = NumChunks(stream.raw_bytes, stream.chunk_bytes);
  if ((table_bytes - formats::SeekTableBytes(0)) / 8 / kMaxChunkFrames > num_chunks) {
    check("its seek table names more frames than it can have");
  }
  std::vector<std::byte> table(table_bytes);
  file.ReadAt(end - table_bytes, table);
  PackedChunks chunks;
  check(formats::ParseSeekTable(table, stream.bytes, chunks.frames));
  check(PartIntoChunks(stream, chunks));
  return chunks;
}

}  // namespace dsv3::convert

#include <cstring>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/packing/chunk_coder.h"
#include "convert/packing/chunk_coding.h"
#include "convert/packing/small_differences.h"
#include "convert/packing/sparse_chunk.h"
#include "formats/error.h"
#include "formats/hash/crc32.h"
#include "formats/message_text.h"
#include "formats/zstd_frame.h"
#include "quant/planes.h"

namespace dsv3::convert {
namespace {

using formats::SeekEntry;

constexpr std::string_view kRestore = "restore the file from where it came from";
constexpr std::string_view kOtherProgram =
    "unpack it with the program that packed it, or a newer one";
constexpr std::string_view kOtherSizes = "has planes of other sizes than its elements need";

bool IsWidth(ChunkCoding coding, unsigned width) {
  if (coding == ChunkCoding::kFloats) return width == 2;
  return width == 2 || width == 4 || width == 8 || (width == 1 && !IsSmall(coding));
}

// A chunk on its way through the decoder.
struct Chunk {
  std::span<const std::byte> packed;  // the planes' frames, once the coding was read
  std::span<const SeekEntry> frames;
  std::span<const std::byte> base;
  const ChunkPlace& place;
  std::span<std::byte> raw;

  CodingFrame coding = {};
  std::uint32_t head_crc = 0;  // of what the coding's checksum begins with
  std::uint32_t checksum = 0;

  [[noreturn]] void Fail(std::string_view problem, std::string_view advice = kRestore) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: chunk {} of tensor {} {}; {}", formats::ShownPath(place.file),
                            place.chunk, QuoteForMessage(place.tensor), problem, advice),
                {.file = place.file, .tensor = place.tensor});
  }

  std::size_t elements() const { return raw.size() / coding.width; }
  // Whether all frames from `first` on hold as many bytes.
  bool HavePlanes(std::size_t first, std::size_t bytes) const {
    for (const SeekEntry& frame : frames.subspan(first)) {
      if (frame.content_bytes != bytes) return false;
    }
    return true;
  }

  void ReadCoding();
  void CheckCoding() const;
};

// Takes the first frame, which says the coding.
void Chunk::ReadCoding() {
  std::size_t bytes = 0;
  for (const SeekEntry& frame : frames) bytes += frame.frame_bytes;
  if (frames.empty() || bytes != packed.size()) Fail("has frames of another size than its own");
  const std::span<const std::byte> frame = packed.first(frames[0].frame_bytes);
  const auto content = formats::SkippableContent(kCodingMagic, frame);
  if (!content || content->empty()) Fail("does not begin with the frame that says its coding");
  coding.version = std::to_integer<std::uint8_t>((*content)[0]);
  if (coding.version != kCodingVersion) {
    Fail(fmt::format("has a coding of version {}, and this program knows version {} alone",
                     coding.version, kCodingVersion),
         kOtherProgram);
  }
  if (frame.size() != kCodingFrameBytes || frames[0].content_bytes != 0) {
    Fail("begins with a frame of another size than one that says a coding");
  }
  coding.coding = static_cast<ChunkCoding>((*content)[1]);
  coding.width = std::to_integer<std::uint8_t>((*content)[2]);
  coding.num_planes = std::to_integer<std::uint8_t>((*content)[3]);
  std::memcpy(&coding.raw_bytes, content->data() + 4, sizeof coding.raw_bytes);
  std::memcpy(&checksum, content->data() + kCodingHeadBytes, sizeof checksum);
  head_crc = formats::Crc32(content->first(kCodingHeadBytes));
  packed = packed.subspan(frame.size());
  frames = frames.subspan(1);
  CheckCoding();
}

void Chunk::CheckCoding() const {
  const auto number = static_cast<unsigned>(coding.coding);
  if (number >= kNumCodings) {
    Fail(fmt::format("has a coding {}, which this program does not know", number), kOtherProgram);
  }
  if (!IsWidth(coding.coding, coding.width) || raw.size() % coding.width != 0) {
    Fail(fmt::format("has a coding {} of elements of {} bytes, which there is not", number,
                     coding.width));
  }
  if (coding.raw_bytes != raw.size()) {
    Fail(fmt::format("says that it holds {}, and the tensor has {} there",
                     formats::ExactBytes(coding.raw_bytes), formats::ExactBytes(raw.size())));
  }
  if (coding.num_planes != frames.size() ||
      !PlanesFit(coding.coding, coding.width, frames.size())) {
    Fail(fmt::format("has {} planes, which its coding {} has not", frames.size(), number));
  }
  if (NeedsBase(coding.coding) && base.empty()) {
    Fail("holds only what differs from the base that it was packed against",
         "give that base with --base");
  }
}

}  // namespace

class ChunkDecoder::State {
 public:
  void Decode(Chunk& chunk);

 private:
  void DecodePlanes(const Chunk& chunk, std::span<std::byte> planes);
  void DecodeEven(const Chunk& chunk);
  void DecodeSparse(const Chunk& chunk);
  void DecodeSmall(const Chunk& chunk);
  static std::span<std::byte> Room(std::vector<std::byte>& buffer, std::size_t bytes) {
    if (buffer.size() < bytes) buffer.resize(bytes);
    return std::span(buffer).first(bytes);
  }

  formats::ZstdDecoder zstd_;
  std::vector<std::byte> planes_;
  std::vector<std::byte> first_;   // changed values of the base; differences
  std::vector<std::byte> second_;  // changed values; large differences
};

// Decodes the frames one behind the other. `planes` has the sum of their contents.
void ChunkDecoder::State::DecodePlanes(const Chunk& chunk, std::span<std::byte> planes) {
  std::span<const std::byte> packed = chunk.packed;
  for (std::size_t i = 0; i < chunk.frames.size(); ++i) {
    const auto [frame_bytes, content_bytes] = chunk.frames[i];
    const std::string_view fault =
        zstd_.Decode(packed.first(frame_bytes), planes.first(content_bytes));
    if (!fault.empty()) {
      chunk.Fail(fmt::format("is damaged: of the frame of plane {}, {}", i, fault));
    }
    packed = packed.subspan(frame_bytes);
    planes = planes.subspan(content_bytes);
  }
}

// The codings whose planes have a byte of each element.
void ChunkDecoder::State::DecodeEven(const Chunk& chunk) {
  const auto& [version, coding, width, num_planes, raw_bytes] = chunk.coding;
  if (!chunk.HavePlanes(0, chunk.elements())) chunk.Fail(kOtherSizes);
  if (coding == ChunkCoding::kBytes && width == 1) {
    DecodePlanes(chunk, chunk.raw);
    return;
  }
  const std::span<std::byte> planes = Room(planes_, chunk.raw.size());
  DecodePlanes(chunk, planes);
  if (coding == ChunkCoding::kFloats) {
    quant::JoinFloats(planes, chunk.raw);
  } else if (coding == ChunkCoding::kBytes) {
    quant::JoinPlanes(planes, width, chunk.raw);
  } else {
    quant::JoinDifferences(planes, chunk.base, width, OrderOf(coding), chunk.raw);
  }
}

void ChunkDecoder::State::DecodeSparse(const Chunk& chunk) {
  const unsigned width = chunk.coding.width;
  const std::size_t gap_bytes = chunk.frames[0].content_bytes;
  const std::size_t changed = chunk.frames[1].content_bytes;
  if (changed > chunk.elements() || gap_bytes > MaxGapBytes(chunk.elements(), changed) ||
      !chunk.HavePlanes(1, changed)) {
    chunk.Fail(kOtherSizes);
  }
  const std::size_t value_bytes = changed * width;
  const std::span<std::byte> planes = Room(planes_, gap_bytes + value_bytes);
  DecodePlanes(chunk, planes);
  const std::span<const std::byte> gaps = planes.first(gap_bytes);
  const std::span<std::byte> base_values = Room(first_, value_bytes);
  const std::span<std::byte> values = Room(second_, value_bytes);
  if (!GatherElements(chunk.base, width, gaps, changed, base_values.data())) {
    chunk.Fail("is damaged: the gaps between its values do not fit the tensor");
  }
  quant::JoinDifferences(planes.subspan(gap_bytes), base_values, width,
                         OrderOf(chunk.coding.coding), values);
  std::memcpy(chunk.raw.data(), chunk.base.data(), chunk.raw.size());
  ScatterElements(values, width, gaps, chunk.raw);
}

void ChunkDecoder::State::DecodeSmall(const Chunk& chunk) {
  const unsigned width = chunk.coding.width;
  const std::size_t n = chunk.elements();
  const std::size_t count = chunk.frames.size() > 1 ? chunk.frames[1].content_bytes : 0;
  if (chunk.frames[0].content_bytes != n || count > n || !chunk.HavePlanes(1, count)) {
    chunk.Fail(kOtherSizes);
  }
  const std::size_t large_bytes = count * width;
  const std::span<std::byte> planes = Room(planes_, n + large_bytes);
  DecodePlanes(chunk, planes);
  const std::span<std::byte> large = Room(second_, large_bytes);
  quant::JoinPlanes(planes.subspan(n), width, large);
  const std::span<std::byte> differences = Room(first_, chunk.raw.size());
  if (!MergeDifferences(planes.first(n), large, width, differences)) {
    chunk.Fail("is damaged: its large differences do not fit the small ones");
  }
  quant::JoinDifferences(differences, chunk.base, width, OrderOf(chunk.coding.coding), chunk.raw);
}

void ChunkDecoder::State::Decode(Chunk& chunk) {
  chunk.ReadCoding();
  const ChunkCoding coding = chunk.coding.coding;
  if (coding == ChunkCoding::kEqual) {
    std::memcpy(chunk.raw.data(), chunk.base.data(), chunk.raw.size());
  } else if (IsSparse(coding)) {
    DecodeSparse(chunk);
  } else if (IsSmall(coding)) {
    DecodeSmall(chunk);
  } else {
    DecodeEven(chunk);
  }
  if (!NeedsBase(coding)) {
    if (chunk.head_crc != chunk.checksum) {
      chunk.Fail("is damaged: its coding has another checksum");
    }
  } else if (formats::Crc32(chunk.raw, chunk.head_crc) != chunk.checksum) {
    chunk.Fail("does not fit the base: what it makes of it has another checksum",
               "give the base that it was packed against with --base; if this is it, the file is "
               "damaged, so restore it from where it came from");
  }
}

ChunkDecoder::ChunkDecoder() : state_(std::make_unique<State>()) {}
ChunkDecoder::~ChunkDecoder() = default;
ChunkDecoder::ChunkDecoder(ChunkDecoder&&) noexcept = default;
ChunkDecoder& ChunkDecoder::operator=(ChunkDecoder&&) noexcept = default;

void ChunkDecoder::Decode(std::span<const std::byte> packed, std::span<const SeekEntry> frames,
                          std::span<const std::byte> base, const ChunkPlace& place,
                          std::span<std::byte> raw) {
  Chunk chunk{.packed = packed, .frames = frames, .base = base, .place = place, .raw = raw};
  state_->Decode(chunk);
}

}  // namespace dsv3::convert

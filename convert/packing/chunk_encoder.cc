#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "convert/packing/chunk_coder.h"
#include "convert/packing/chunk_coding.h"
#include "convert/packing/small_differences.h"
#include "convert/packing/sparse_chunk.h"
#include "formats/hash/crc32.h"
#include "formats/zstd_frame.h"
#include "quant/planes.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::SeekEntry;
using formats::ZstdMethod;

// A way to code a chunk.
struct Candidate {
  ChunkCoding coding;
  unsigned width;
};

// How the elements of a dtype are coded.
struct ElementForm {
  unsigned width;
  quant::NumberOrder order;
};

ElementForm FormOf(Dtype dtype) {
  using enum quant::NumberOrder;
  switch (dtype) {
    case Dtype::kF8E5M2:
    case Dtype::kF8E4M3:
    case Dtype::kF8E4M3Fnuz:
    case Dtype::kF8E5M2Fnuz:
      return {.width = 1, .order = kFloat};
    case Dtype::kF16:
    case Dtype::kBF16:
      return {.width = 2, .order = kFloat};
    case Dtype::kF32:
    case Dtype::kC64:
      return {.width = 4, .order = kFloat};
    case Dtype::kF64:
      return {.width = 8, .order = kFloat};
    case Dtype::kI16:
    case Dtype::kU16:
      return {.width = 2, .order = kInteger};
    case Dtype::kI32:
    case Dtype::kU32:
      return {.width = 4, .order = kInteger};
    case Dtype::kI64:
    case Dtype::kU64:
      return {.width = 8, .order = kInteger};
    default:
      return {.width = 1, .order = kInteger};  // also several elements in a byte
  }
}

// Both methods are tried on a plane up to this size; of a longer one on a piece of this size first.
constexpr std::size_t kTriedPlane = std::size_t{16} << 10;
constexpr std::size_t kPlanePiece = std::size_t{8} << 10;
// A longer plane is stored where Huffman codes make nothing of a sample of this many pieces, spread
// over it.
constexpr std::size_t kNoisePieces = 8;
constexpr std::size_t kNoisePiece = std::size_t{2} << 10;
// A piece by itself becomes smaller by this part than within the plane, since its codes are its
// own.
constexpr std::size_t kPieceLuck = 16;
// Where Huffman codes take less than this part of a plane, they come near the bit that each symbol
// takes at least.
constexpr std::size_t kLowPart = 4;

// Candidates are compared on so much of a chunk, in pieces spread over it; those within 1/32 of the
// smallest are made whole.
constexpr std::size_t kSampleBytes = std::size_t{64} << 10;
constexpr std::size_t kSamplePieces = 4;
constexpr std::size_t kClose = 32;

// A packed chunk in the making.
struct Packed {
  std::size_t bytes = 0;
  std::array<SeekEntry, kMaxChunkFrames> frames{};
  std::size_t num_frames = 0;

  void Add(std::size_t frame_bytes, std::size_t content_bytes) {
    frames[num_frames++] = {.frame_bytes = static_cast<std::uint32_t>(frame_bytes),
                            .content_bytes = static_cast<std::uint32_t>(content_bytes)};
    bytes += frame_bytes;
  }
};

// Writes the skippable frame. `checked` is the raw chunk where the coding needs the base, else
// empty.
void WriteCodingFrame(const CodingFrame& frame, std::span<const std::byte> checked,
                      std::span<std::byte> out) {
  std::array<std::byte, kCodingHeadBytes> head{std::byte{frame.version},
                                               static_cast<std::byte>(frame.coding),
                                               std::byte{frame.width}, std::byte{frame.num_planes}};
  std::memcpy(head.data() + 4, &frame.raw_bytes, sizeof frame.raw_bytes);
  const std::uint32_t checksum = formats::Crc32(checked, formats::Crc32(head));
  constexpr auto kContent =
      static_cast<std::uint32_t>(kCodingFrameBytes - formats::kSkippableHeadBytes);
  formats::WriteSkippableHead(kCodingMagic, kContent, out.first<formats::kSkippableHeadBytes>());
  std::memcpy(out.data() + formats::kSkippableHeadBytes, head.data(), head.size());
  std::memcpy(out.data() + formats::kSkippableHeadBytes + head.size(), &checksum, sizeof checksum);
}

std::span<std::byte> Room(std::vector<std::byte>& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer.resize(bytes);
  return std::span(buffer).first(bytes);
}

}  // namespace

std::size_t PackedChunkBound(std::size_t raw_bytes) { return raw_bytes + raw_bytes / 64 + 2048; }

class ChunkEncoder::State {
 public:
  std::size_t Encode(Dtype dtype, std::span<const std::byte> raw, std::span<const std::byte> base,
                     std::span<std::byte> out, std::vector<SeekEntry>& frames);

 private:
  struct Chunk {
    std::span<const std::byte> raw;
    std::span<const std::byte> base;
  };

  std::vector<Candidate> Candidates(ElementForm form, Chunk chunk) const;
  void DropLarger(std::vector<Candidate>& candidates, Chunk chunk);
  Packed Make(Candidate candidate, Chunk chunk, std::span<std::byte> out);
  void MakeSparse(Candidate candidate, Chunk chunk, std::span<std::byte> out, Packed& packed);
  void MakeSmall(Candidate candidate, Chunk chunk, std::span<std::byte> out, Packed& packed);
  void AddPlanes(std::span<const std::byte> planes, unsigned width, std::span<std::byte> out,
                 Packed& packed);
  void AddPlane(std::span<const std::byte> plane, std::span<std::byte> out, Packed& packed);
  bool IsNoise(std::span<const std::byte> plane);
  bool GainsByMatches(std::span<const std::byte> plane, std::size_t huffman_bytes);

  formats::ZstdEncoder huffman_;
  formats::ZstdEncoder fast_;
  std::vector<std::byte> planes_;
  std::vector<std::byte> trial_;   // a plane's frame by the other method
  std::vector<std::byte> other_;   // a chunk by another coding
  std::vector<std::byte> sample_;  // pieces of the chunk, then of the base
  std::vector<std::byte> gaps_;    // or small differences
  std::vector<std::byte> values_;  // changed ones, then those of the base; or large differences
};

// Whether no symbol of a long plane seems to be rarer or more frequent than others.
bool ChunkEncoder::State::IsNoise(std::span<const std::byte> plane) {
  if (plane.size() <= kTriedPlane) return false;
  std::array<std::byte, kNoisePieces * kNoisePiece> sample;
  for (std::size_t i = 0; i < kNoisePieces; ++i) {
    const std::size_t from = (plane.size() - kNoisePiece) / (kNoisePieces - 1) * i;
    std::memcpy(sample.data() + i * kNoisePiece, plane.data() + from, kNoisePiece);
  }
  const std::span<std::byte> room = Room(trial_, formats::ZstdFrameBound(sample.size()));
  return huffman_.Encode(sample, ZstdMethod::kHuffman, room) >= sample.size();
}

// Whether it may pay to look for matches in a plane that Huffman codes make this large: always in a
// short one, or where they come near the bit that each symbol takes at least; else where a piece of
// the plane becomes smaller than its share of the codes.
bool ChunkEncoder::State::GainsByMatches(std::span<const std::byte> plane,
                                         std::size_t huffman_bytes) {
  if (plane.size() <= kTriedPlane || huffman_bytes < plane.size() / kLowPart) return true;
  const std::span<std::byte> room = Room(trial_, formats::ZstdFrameBound(kPlanePiece));
  const std::size_t bytes = fast_.Encode(
      plane.subspan((plane.size() - kPlanePiece) / 2, kPlanePiece), ZstdMethod::kFast, room);
  return bytes + bytes / kPieceLuck < huffman_bytes * kPlanePiece / plane.size();
}

void ChunkEncoder::State::AddPlane(std::span<const std::byte> plane, std::span<std::byte> out,
                                   Packed& packed) {
  const std::span<std::byte> place = out.subspan(packed.bytes);
  const ZstdMethod method = IsNoise(plane) ? ZstdMethod::kStored : ZstdMethod::kHuffman;
  std::size_t bytes = huffman_.Encode(plane, method, place);
  if (GainsByMatches(plane, bytes)) {
    const std::span<std::byte> room = Room(trial_, formats::ZstdFrameBound(plane.size()));
    const std::size_t fast = fast_.Encode(plane, ZstdMethod::kFast, room);
    if (fast < bytes) {
      std::memcpy(place.data(), room.data(), fast);
      bytes = fast;
    }
  }
  packed.Add(bytes, plane.size());
}

void ChunkEncoder::State::AddPlanes(std::span<const std::byte> planes, unsigned width,
                                    std::span<std::byte> out, Packed& packed) {
  const std::size_t bytes = planes.size() / width;
  for (std::size_t k = 0; k < width; ++k) AddPlane(planes.subspan(k * bytes, bytes), out, packed);
}

void ChunkEncoder::State::MakeSparse(Candidate candidate, Chunk chunk, std::span<std::byte> out,
                                     Packed& packed) {
  const std::size_t width = candidate.width;
  const std::size_t elements = chunk.raw.size() / width;
  const std::size_t room = (elements + 1) * width;
  const std::span<std::byte> gaps = Room(gaps_, MaxGapBytes(elements, elements) + 1);
  const std::span<std::byte> values = Room(values_, 2 * room);
  const SparseSizes sizes = GatherChanges(chunk.raw, chunk.base, candidate.width, gaps.data(),
                                          values.data(), values.data() + room);
  const std::size_t bytes = sizes.changed * width;
  const std::span<std::byte> planes = Room(planes_, bytes);
  quant::SplitDifferences(values.first(bytes), values.subspan(room, bytes), candidate.width,
                          OrderOf(candidate.coding), planes);
  AddPlane(gaps.first(sizes.gap_bytes), out, packed);
  AddPlanes(planes, candidate.width, out, packed);
}

void ChunkEncoder::State::MakeSmall(Candidate candidate, Chunk chunk, std::span<std::byte> out,
                                    Packed& packed) {
  const std::size_t bytes = chunk.raw.size();
  const std::span<std::byte> planes = Room(planes_, bytes);
  const std::span<std::byte> small = Room(gaps_, bytes / candidate.width);
  const std::span<std::byte> large = Room(values_, bytes);
  quant::SplitDifferences(chunk.raw, chunk.base, candidate.width, OrderOf(candidate.coding),
                          planes);
  const std::size_t found = PartDifferences(planes, candidate.width, small, large);
  AddPlane(small, out, packed);
  if (found == 0) return;
  const std::size_t large_bytes = found * candidate.width;
  quant::SplitPlanes(large.first(large_bytes), candidate.width, planes.first(large_bytes));
  AddPlanes(planes.first(large_bytes), candidate.width, out, packed);
}

// Writes the packed chunk to the start of `out`.
Packed ChunkEncoder::State::Make(Candidate candidate, Chunk chunk, std::span<std::byte> out) {
  const auto [coding, width] = candidate;
  Packed packed;
  packed.Add(kCodingFrameBytes, 0);
  if (IsSparse(coding)) {
    MakeSparse(candidate, chunk, out, packed);
  } else if (IsSmall(coding)) {
    MakeSmall(candidate, chunk, out, packed);
  } else if (coding == ChunkCoding::kBytes && width == 1) {
    AddPlane(chunk.raw, out, packed);
  } else if (coding != ChunkCoding::kEqual) {
    const std::span<std::byte> planes = Room(planes_, chunk.raw.size());
    if (coding == ChunkCoding::kFloats) {
      quant::SplitFloats(chunk.raw, planes);
    } else if (coding == ChunkCoding::kBytes) {
      quant::SplitPlanes(chunk.raw, width, planes);
    } else {
      quant::SplitDifferences(chunk.raw, chunk.base, width, OrderOf(coding), planes);
    }
    AddPlanes(planes, width, out, packed);
  }
  WriteCodingFrame({.coding = coding,
                    .width = static_cast<std::uint8_t>(width),
                    .num_planes = static_cast<std::uint8_t>(packed.num_frames - 1),
                    .raw_bytes = static_cast<std::uint32_t>(chunk.raw.size())},
                   NeedsBase(coding) ? chunk.raw : std::span<const std::byte>(), out);
  return packed;
}

// The codings that may be the smallest; one at least.
std::vector<Candidate> ChunkEncoder::State::Candidates(ElementForm form, Chunk chunk) const {
  const bool floats = form.order == quant::NumberOrder::kFloat;
  std::vector<Candidate> candidates;
  const std::size_t elements = chunk.raw.size() / form.width;
  if (!chunk.base.empty()) {
    const std::size_t changed = quant::CountDifferent(chunk.raw, chunk.base, form.width);
    if (changed == 0) return {{.coding = ChunkCoding::kEqual, .width = form.width}};
    // Where half of the elements change, a gap a value costs what the zeros do in planes.
    if (changed <= elements / 2) {
      candidates.push_back(
          {.coding = floats ? ChunkCoding::kSparseFloats : ChunkCoding::kSparseIntegers,
           .width = form.width});
    }
    if (form.width > 1) {
      candidates.push_back(
          {.coding = floats ? ChunkCoding::kSmallFloats : ChunkCoding::kSmallIntegers,
           .width = form.width});
    }
    candidates.push_back(
        {.coding = floats ? ChunkCoding::kFloatDifferences : ChunkCoding::kIntegerDifferences,
         .width = form.width});
  }
  candidates.push_back(
      {.coding = floats && form.width == 2 ? ChunkCoding::kFloats : ChunkCoding::kBytes,
       .width = form.width});
  if (form.width > 2 || (form.width == 2 && !floats)) {
    candidates.push_back({.coding = ChunkCoding::kBytes, .width = 1});
  }
  return candidates;
}

// Leaves the candidates that are the smallest on a sample of the chunk, or nearly so.
void ChunkEncoder::State::DropLarger(std::vector<Candidate>& candidates, Chunk chunk) {
  if (candidates.size() == 1 || chunk.raw.size() <= 2 * kSampleBytes) return;
  const std::span<std::byte> sample = Room(sample_, 2 * kSampleBytes);
  constexpr std::size_t kPiece = kSampleBytes / kSamplePieces;
  for (std::size_t i = 0; i < kSamplePieces; ++i) {
    // A multiple of 8, so that elements stay whole.
    const std::size_t from = (chunk.raw.size() - kPiece) / (kSamplePieces - 1) * i / 8 * 8;
    std::memcpy(sample.data() + i * kPiece, chunk.raw.data() + from, kPiece);
    if (chunk.base.empty()) continue;
    std::memcpy(sample.data() + kSampleBytes + i * kPiece, chunk.base.data() + from, kPiece);
  }
  const Chunk piece{.raw = sample.first(kSampleBytes),
                    .base = chunk.base.empty() ? chunk.base : sample.last(kSampleBytes)};
  const std::span<std::byte> out = Room(other_, PackedChunkBound(3 * kSampleBytes));
  std::vector<std::size_t> sizes;
  sizes.reserve(candidates.size());
  for (const Candidate& candidate : candidates) {
    // A sample may have no changes at all.
    const bool none = IsSparse(candidate.coding) &&
                      std::memcmp(piece.raw.data(), piece.base.data(), kSampleBytes) == 0;
    // Where more change than in the chunk, gaps and values may be twice the sample.
    sizes.push_back(none ? 0 : Make(candidate, piece, out).bytes);
  }
  const std::size_t smallest = *std::min_element(sizes.begin(), sizes.end());
  std::size_t kept = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (sizes[i] <= smallest + smallest / kClose) candidates[kept++] = candidates[i];
  }
  candidates.resize(kept);
}

std::size_t ChunkEncoder::State::Encode(Dtype dtype, std::span<const std::byte> raw,
                                        std::span<const std::byte> base, std::span<std::byte> out,
                                        std::vector<SeekEntry>& frames) {
  const Chunk chunk{.raw = raw, .base = base};
  std::vector<Candidate> candidates = Candidates(FormOf(dtype), chunk);
  DropLarger(candidates, chunk);
  Packed best = Make(candidates.front(), chunk, out);
  for (std::size_t i = 1; i < candidates.size(); ++i) {
    const std::span<std::byte> room = Room(other_, PackedChunkBound(raw.size()));
    const Packed packed = Make(candidates[i], chunk, room);
    if (packed.bytes >= best.bytes) continue;
    std::memcpy(out.data(), room.data(), packed.bytes);
    best = packed;
  }
  frames.insert(frames.end(), best.frames.begin(),
                best.frames.begin() + static_cast<std::ptrdiff_t>(best.num_frames));
  return best.bytes;
}

ChunkEncoder::ChunkEncoder() : state_(std::make_unique<State>()) {}
ChunkEncoder::~ChunkEncoder() = default;
ChunkEncoder::ChunkEncoder(ChunkEncoder&&) noexcept = default;
ChunkEncoder& ChunkEncoder::operator=(ChunkEncoder&&) noexcept = default;

std::size_t ChunkEncoder::Encode(Dtype dtype, std::span<const std::byte> raw,
                                 std::span<const std::byte> base, std::span<std::byte> out,
                                 std::vector<SeekEntry>& frames) {
  return state_->Encode(dtype, raw, base, out, frames);
}

}  // namespace dsv3::convert

#include "convert/stream/packed_chunk.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <fmt/format.h>

#include "convert/packing/packed_file.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// So many small tensors share a chunk at most: each takes some bytes beyond its own.
constexpr std::size_t kMostPieces = 1024;

// The bytes that become one packed chunk.
struct RawPiece {
  std::size_t tensor = 0;
  std::uint64_t begin = 0;  // in the tensor
  std::span<const std::byte> bytes;
  std::span<const std::byte> base;
};

// Calls `visit` for each of them, in their order.
template <typename Visit>
void ForEachPiece(const Chunk& chunk, const Visit& visit) {
  for (const ChunkPart& part : chunk.parts) {
    for (std::uint64_t done = 0; done < part.range.size(); done += kPackedChunkBytes) {
      const auto offset = static_cast<std::size_t>(done);
      const auto length = static_cast<std::size_t>(
          std::min<std::uint64_t>(kPackedChunkBytes, part.range.size() - done));
      visit(RawPiece{part.tensor, part.range.begin + done, part.output.subspan(offset, length),
                     part.base.empty() ? part.base : part.base.subspan(offset, length)});
    }
  }
}

}  // namespace

std::uint64_t PackedChunkEnd(const PlannedFile& file, std::uint64_t begin,
                             std::uint64_t chunk_bytes) {
  if (begin < file.data_offset) return std::min(file.data_offset, begin + chunk_bytes);
  auto tensor = std::partition_point(
      file.tensors.begin(), file.tensors.end(),
      [&](const PlannedTensor& one) { return file.data_offset + one.entry.end() <= begin; });
  std::uint64_t end = begin;
  for (std::size_t pieces = 0; tensor != file.tensors.end() && pieces < kMostPieces; ++pieces) {
    const std::uint64_t tensor_begin = file.data_offset + tensor->entry.offset;
    const std::uint64_t place = end - tensor_begin;
    const std::uint64_t next =
        tensor_begin +
        std::min(tensor->entry.bytes, place - place % kPackedChunkBytes + kPackedChunkBytes);
    if (end != begin && next - begin > chunk_bytes) break;
    end = next;
    if (end == tensor_begin + tensor->entry.bytes) ++tensor;
  }
  return end;
}

std::uint64_t PackedMemory(std::uint64_t chunk_bytes) {
  return (chunk_bytes / kPackedChunkBytes + 1) * PackedChunkBound(kPackedChunkBytes) +
         kMostPieces * (sizeof(PackedPiece) + PackedChunkBound(0));
}

class ChunkPacker::Use {
 public:
  explicit Use(ChunkPacker& packer) : packer_(packer) {
    const std::lock_guard lock(packer_.mutex_);
    if (!packer_.coders_.any_free()) {
      throw Error(ErrorCode::kInternal, "more threads pack than were announced");
    }
    coder_ = &packer_.coders_.Take();
  }
  ~Use() {
    const std::lock_guard lock(packer_.mutex_);
    packer_.coders_.Free(*coder_);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  Coder& coder() const { return *coder_; }

 private:
  ChunkPacker& packer_;
  Coder* coder_ = nullptr;
};

void ChunkPacker::Pack(const PlannedFile& file, Chunk& chunk) {
  const Use use(*this);
  PackWith(use.coder(), file, chunk);
  CheckWith(use.coder(), file, chunk);
}

void ChunkPacker::Check(const PlannedFile& file, const Chunk& chunk) {
  const Use use(*this);
  CheckWith(use.coder(), file, chunk);
}

void ChunkPacker::PackWith(Coder& coder, const PlannedFile& file, Chunk& chunk) {
  PackedPieces& packed = chunk.packed;
  std::size_t bound = 0;
  ForEachPiece(chunk, [&](const RawPiece& raw) { bound += PackedChunkBound(raw.bytes.size()); });
  if (packed.buffer.size() < bound) {
    packed.buffer = formats::AlignedBuffer();  // the old one goes before the new one comes
    packed.buffer = formats::AlignedBuffer(bound);
  }
  packed.pieces.clear();
  packed.frames.clear();
  std::size_t filled = 0;
  ForEachPiece(chunk, [&](const RawPiece& raw) {
    const TensorEntry& entry = file.tensors[raw.tensor].entry;
    PackedPiece& piece = packed.pieces.emplace_back();
    piece.tensor = raw.tensor;
    piece.begin = raw.begin;
    piece.base = raw.base;
    piece.first_frame = packed.frames.size();
    const std::size_t bytes = coder.encoder.Encode(
        entry.dtype, raw.bytes, raw.base, packed.buffer.span().subspan(filled), packed.frames);
    piece.num_frames = packed.frames.size() - piece.first_frame;
    piece.bytes = packed.buffer.span().subspan(filled, bytes);
    piece.ends_tensor = raw.begin + raw.bytes.size() == entry.bytes;
    filled += bytes;
  });
}

void ChunkPacker::CheckWith(Coder& coder, const PlannedFile& file, const Chunk& chunk) {
  coder.unpacked.resize(kPackedChunkBytes);
  auto piece = chunk.packed.pieces.begin();
  ForEachPiece(chunk, [&](const RawPiece& raw) {
    const std::span<std::byte> unpacked = std::span(coder.unpacked).first(raw.bytes.size());
    const std::string& tensor = file.tensors[raw.tensor].entry.name;
    bool is_same = false;
    try {
      coder.decoder.Decode(
          piece->bytes,
          std::span(chunk.packed.frames).subspan(piece->first_frame, piece->num_frames), raw.base,
          {file.name, tensor, raw.begin / kPackedChunkBytes}, unpacked);
      is_same = std::memcmp(unpacked.data(), raw.bytes.data(), raw.bytes.size()) == 0;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadInput) throw;
    }
    if (!is_same) {
      throw Error(ErrorCode::kVerification,
                  fmt::format("{}: tensor {}: what was packed does not give its bytes again; the "
                              "memory of this machine may be faulty: run the command again",
                              formats::ShownPath(file.name), QuoteForMessage(tensor)),
                  {file.name, tensor});
    }
    ++piece;
  });
}

}  // namespace dsv3::convert

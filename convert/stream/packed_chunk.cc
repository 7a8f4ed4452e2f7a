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

// Calls `visit(tensor, begin, bytes)` for each packed chunk among the parts, which begins at
// `begin` of its tensor.
template <typename Visit>
void ForEachPiece(const Chunk& chunk, const Visit& visit) {
  for (const ChunkPart& part : chunk.parts) {
    for (std::uint64_t done = 0; done < part.range.size(); done += kPackedChunkBytes) {
      const auto length = static_cast<std::size_t>(
          std::min<std::uint64_t>(kPackedChunkBytes, part.range.size() - done));
      visit(part, part.range.begin + done,
            part.output.subspan(static_cast<std::size_t>(done), length));
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
  ForEachPiece(chunk, [&](const ChunkPart&, std::uint64_t, std::span<const std::byte> raw) {
    bound += PackedChunkBound(raw.size());
  });
  if (packed.buffer.size() < bound) {
    packed.buffer = formats::AlignedBuffer();  // the old one goes before the new one comes
    packed.buffer = formats::AlignedBuffer(bound);
  }
  packed.pieces.clear();
  packed.frames.clear();
  std::size_t filled = 0;
  ForEachPiece(chunk,
               [&](const ChunkPart& part, std::uint64_t begin, std::span<const std::byte> raw) {
                 PackedPiece& piece = packed.pieces.emplace_back();
                 piece.tensor = part.tensor;
                 piece.begin = begin;
                 piece.first_frame = packed.frames.size();
                 const std::size_t bytes =
                     coder.encoder.Encode(file.tensors[part.tensor].entry.dtype, raw, {},
                                          packed.buffer.span().subspan(filled), packed.frames);
                 piece.num_frames = packed.frames.size() - piece.first_frame;
                 piece.bytes = packed.buffer.span().subspan(filled, bytes);
                 piece.ends_tensor = begin + raw.size() == file.tensors[part.tensor].entry.bytes;
                 filled += bytes;
               });
}

void ChunkPacker::CheckWith(Coder& coder, const PlannedFile& file, const Chunk& chunk) {
  coder.unpacked.resize(kPackedChunkBytes);
  auto piece = chunk.packed.pieces.begin();
  ForEachPiece(chunk, [&](const ChunkPart& part, std::uint64_t begin,
                          std::span<const std::byte> raw) {
    const std::span<std::byte> unpacked = std::span(coder.unpacked).first(raw.size());
    const std::string& tensor = file.tensors[part.tensor].entry.name;
    bool is_same = false;
    try {
      coder.decoder.Decode(
          piece->bytes,
          std::span(chunk.packed.frames).subspan(piece->first_frame, piece->num_frames), {},
          {file.name, tensor, begin / kPackedChunkBytes}, unpacked);
      is_same = std::memcmp(unpacked.data(), raw.data(), raw.size()) == 0;
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

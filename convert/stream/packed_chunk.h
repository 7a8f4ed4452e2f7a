#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "convert/packing/chunk_coder.h"
#include "convert/plan/planned_file.h"
#include "convert/stream/chunk.h"
#include "convert/stream/slots.h"

// The packed form of what the executor makes at a time.
namespace dsv3::convert {

// The end of the chunk that begins at `begin`, of a file that is packed: at the header's end, or at
// the end of a packed chunk of a tensor. Such ends are at most `chunk_bytes` apart where the
// longest packed chunk allows it.
std::uint64_t PackedChunkEnd(const PlannedFile& file, std::uint64_t begin,
                             std::uint64_t chunk_bytes);

// Bounds for the memory of packing: of a chunk of `chunk_bytes`, and of one thread that packs.
std::uint64_t PackedMemory(std::uint64_t chunk_bytes);
inline constexpr std::uint64_t kPackingThreadBytes = std::uint64_t{6} << 20;

// Packs chunks, and unpacks and compares what it made. Thread-safe.
class ChunkPacker {
 public:
  // At most `threads` threads pack at the same time.
  explicit ChunkPacker(unsigned threads) : coders_(threads) {}

  // Sets chunk.packed from the evaluated bytes, which begin and end where PackedChunkEnd says.
  // Throws Error (kVerification), naming file and tensor, as Check does.
  void Pack(const PlannedFile& file, Chunk& chunk);

  // Unpacks chunk.packed and throws unless that gives the chunk's bytes.
  void Check(const PlannedFile& file, const Chunk& chunk);

 private:
  struct Coder {
    ChunkEncoder encoder;
    ChunkDecoder decoder;
    std::vector<std::byte> unpacked;
  };
  class Use;

  static void PackWith(Coder& coder, const PlannedFile& file, Chunk& chunk);
  static void CheckWith(Coder& coder, const PlannedFile& file, const Chunk& chunk);

  std::mutex mutex_;  // guards coders_
  Slots<Coder> coders_;
};

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/dtype.h"
#include "formats/seek_table.h"

// Codings of a chunk, up to 4 MiB of a tensor's bytes; docs/packed.md has the byte layout. A packed
// chunk is a short skippable frame that says the coding, and then each plane of the chunk as a zstd
// frame. It can be decoded alone.
namespace dsv3::convert {

inline constexpr std::size_t kMaxPackedChunkBytes = std::size_t{4} << 20;

// The most bytes that a packed chunk of `raw_bytes` takes, and the most frames that it has.
std::size_t PackedChunkBound(std::size_t raw_bytes);
inline constexpr std::size_t kMaxChunkFrames = 10;

// Packs chunks. The bytes depend on dtype, chunk and base alone, where matches are found also on
// libzstd's version. One instance is used by one thread at a time; it holds buffers of about three
// times the largest chunk so far.
class ChunkEncoder {
 public:
  ChunkEncoder();
  ~ChunkEncoder();
  ChunkEncoder(ChunkEncoder&&) noexcept;
  ChunkEncoder& operator=(ChunkEncoder&&) noexcept;

  // Packs `raw`, 1 to kMaxPackedChunkBytes bytes that are whole elements of the tensor, by the
  // coding that makes it smallest. `base` is empty, or the bytes of the base's tensor at the same
  // place; then the packed chunk may need them to be decoded, or may not. Writes to the start of
  // `out`, which has PackedChunkBound(raw.size()) bytes at least, appends the sizes of the frames
  // to `frames`, and returns the size of the packed chunk, the sum of these.
  std::size_t Encode(formats::Dtype dtype, std::span<const std::byte> raw,
                     std::span<const std::byte> base, std::span<std::byte> out,
                     std::vector<formats::SeekEntry>& frames);

 private:
  class State;
  std::unique_ptr<State> state_;
};

// What errors call a chunk.
struct ChunkPlace {
  std::string file;         // of the packed checkpoint
  std::string tensor;       // empty for none
  std::uint64_t chunk = 0;  // from 0
};

// Unpacks chunks. One instance is used by one thread at a time; it holds buffers of about the size
// of the largest chunk so far, whatever chunks claim.
class ChunkDecoder {
 public:
  ChunkDecoder();
  ~ChunkDecoder();
  ChunkDecoder(ChunkDecoder&&) noexcept;
  ChunkDecoder& operator=(ChunkDecoder&&) noexcept;

  // Fills `raw` from `packed`, whose frames have the sizes `frames` by the seek table. `base` is
  // the bytes of the base's tensor at the same place, or empty where there is none. Every frame's
  // checksum is checked, and of a chunk that was packed against a base also that of the result, so
  // that another base than that one is found. Throws Error (kBadInput), naming file, tensor and
  // chunk, when the chunk is damaged, makes another number of bytes, has a coding that this version
  // does not know, or needs a base and `base` is empty or not the right one; `raw` is not valid
  // then. Preconditions: raw.size() as in Encode, `base` is empty or of that size.
  void Decode(std::span<const std::byte> packed, std::span<const formats::SeekEntry> frames,
              std::span<const std::byte> base, const ChunkPlace& place, std::span<std::byte> raw);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace dsv3::convert

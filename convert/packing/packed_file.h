#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"
#include "formats/seek_table.h"

namespace dsv3::formats {
class InputFile;
}

// X.safetensors.packed, the packed form of X.safetensors; docs/packed.md has the layout. It is a
// safetensors file itself. First lies `__header__`, the first bytes of the original up to its data
// as one zstd frame; then, in the order of the original's data, a stream for each tensor: the
// tensor's chunks, all of chunk_bytes but the last, and the seek table of their frames.
namespace dsv3::convert {

inline constexpr std::string_view kPackedSuffix = ".packed";

// Bytes of the chunks that are written. Readers take others up to kMaxPackedChunkBytes.
inline constexpr std::size_t kPackedChunkBytes = std::size_t{1} << 20;

// The number of chunks of a tensor of `raw_bytes`; 0 for an empty one.
std::uint64_t NumPackedChunks(std::uint64_t raw_bytes);

// The places of a packed file that is written. The sizes of the streams are known last, so room is
// kept for the bytes before them: a writer puts the streams one behind the other from
// streams_offset() on, each followed by formats::SerializeSeekTable of its frames (an empty
// tensor's is the seek table alone), and writes Head() to offset 0 at the end. Immutable.
class PackedFileLayout {
 public:
  // `original_head` is the first `original.data_offset` bytes of the original, `original` what
  // these say. Throws Error (kBadInput) when the packed header would be longer than safetensors
  // allows.
  PackedFileLayout(std::string_view original_head, const formats::SafetensorsHeader& original);

  std::uint64_t streams_offset() const { return header_bytes_ + header_frame_.size(); }
  // The most bytes that the packed file takes.
  std::uint64_t max_bytes() const { return max_bytes_; }

  // The first streams_offset() bytes of the packed file. `stream_bytes` are the sizes of the
  // streams, seek tables included, in the order of original.tensors.
  std::string Head(std::span<const std::uint64_t> stream_bytes) const;

 private:
  std::string HeaderText(std::span<const std::uint64_t> stream_bytes) const;

  std::vector<std::string> names_;  // of the tensors, in the order of the data
  std::string header_name_;
  std::string header_frame_;
  std::uint64_t original_bytes_ = 0;
  std::uint64_t header_bytes_ = 0;  // with the length before it
  std::uint64_t max_bytes_ = 0;
};

// Where the stream of a tensor lies in a packed file, and how it is cut.
struct PackedStream {
  std::string tensor;           // the tensor's name
  std::uint64_t raw_bytes = 0;  // of the tensor
  std::size_t chunk_bytes = 0;  // raw bytes of each chunk but the last: a multiple of 8
  std::uint64_t offset = 0;     // from the start of the packed file
  std::uint64_t bytes = 0;      // seek table included
};

// A chunk of a tensor of a packed file.
struct PackedChunk {
  std::uint64_t raw_begin = 0;  // from the start of the tensor
  std::size_t raw_bytes = 0;
  std::uint64_t offset = 0;  // from the start of the packed file
  std::size_t bytes = 0;     // at most PackedChunkBound(raw_bytes)
  std::size_t first_frame = 0;
  std::size_t num_frames = 0;
};

// The chunks of one tensor, in order, and the frames of all.
struct PackedChunks {
  std::vector<PackedChunk> chunks;
  std::vector<formats::SeekEntry> frames;

  std::span<const formats::SeekEntry> FramesOf(const PackedChunk& chunk) const {
    return std::span(frames).subspan(chunk.first_frame, chunk.num_frames);
  }
};

// What the head of a packed file says.
struct PackedHead {
  std::string digest;  // XXH3-128 of the bytes before the packed file's data, lowercase hex
  // The original's first bytes up to its data, and what these say.
  std::string original_head;
  formats::SafetensorsHeader original;
  std::vector<PackedStream> streams;  // in the order of original.tensors
};

// Reads the packed header and the original's. Memory is bounded by a small multiple of the headers'
// sizes. Errors call the file file.name(). Throws Error: kBadInput when the file is no packed file,
// of an unknown version, damaged, or the two headers do not name the same tensors; kIo.
PackedHead ReadPackedHead(const formats::InputFile& file);

// Reads the seek table of a stream and holds it against the stream's and the tensor's size. `file`
// is the file whose head named the stream. Throws Error: kBadInput when the table is damaged or
// lies, kIo.
PackedChunks ReadPackedChunks(const formats::InputFile& file, const PackedStream& stream);

}  // namespace dsv3::convert

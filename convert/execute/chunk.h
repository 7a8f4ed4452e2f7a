#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convert/execute/record.h"
#include "convert/execute/source_files.h"
#include "convert/plan/plan.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {

// The part of a chunk that belongs to one tensor.
struct ChunkPart {
  std::size_t tensor = 0;               // position in PlannedFile::tensors
  std::span<const std::byte> output;    // in the chunk's buffer
  std::span<const std::byte> streamed;  // the source bytes it was made of, valid with the chunk
  bool ends_tensor = false;
  EvaluationCounts counts;
};

// A piece of an output file at a multiple of the chunk size, with the memory that makes it.
struct Chunk {
  std::size_t lane = 0;
  std::uint64_t index = 0;   // its position in the file, in chunks
  std::uint64_t offset = 0;  // the same in bytes
  std::span<std::byte> data;
  std::vector<ChunkPart> parts;  // in file order; a chunk of header bytes may have none

  formats::AlignedBuffer output_buffer;
  formats::AlignedBuffer input_buffer;
  std::vector<SourceRange> reads;
  std::vector<std::span<const std::byte>> inputs;
};

// First half of making a chunk: reads what its bytes [chunk.offset, chunk.offset + length) of
// `file` need.
void ReadChunk(const PlannedFile& file, std::size_t length, SourceFiles& sources, Chunk& chunk);
// Second half: makes the bytes. `header` is FileHeader(file).
void EvaluateChunk(const PlannedFile& file, std::string_view header, Chunk& chunk);

// The digests of a file that is written chunk by chunk. Chunks must come in order; one thread at a
// time.
class FileDigests {
 public:
  struct Options {
    bool sha256 = true;          // of the file; else its xxh3
    bool tensor_sha256 = false;  // of tensors and of what they were streamed from
  };

  FileDigests(const PlannedFile& file, Options options);

  // A chunk and the digests of its file.
  struct Part {
    FileDigests* digests = nullptr;
    const Chunk* chunk = nullptr;
  };
  // Adds a chunk each of several files, side by side where that is faster.
  static void AddSeveral(std::span<const Part> parts);

  // After the last chunk.
  FileRecord Finish();

 private:
  struct Stream {
    formats::Xxh3 xxh3;
    formats::Sha256 sha256;
  };

  void AddFileXxh3(const Chunk& chunk);
  void AddParts(const Chunk& chunk);
  void UpdateStream(Stream& stream, std::span<const std::byte> data) const;
  Digests FinishStream(Stream& stream) const;

  Options options_;
  FileRecord record_;
  formats::Sha256 file_sha256_;
  formats::Xxh3 file_xxh3_;
  Stream output_;
  Stream streamed_;
};

}  // namespace dsv3::convert

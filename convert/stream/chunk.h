#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "convert/plan/derived_tensors.h"
#include "convert/plan/expression.h"
#include "convert/plan/plan.h"
#include "convert/stream/page_writer.h"
#include "convert/stream/source_files.h"
#include "formats/io/aligned_buffer.h"
#include "formats/seek_table.h"

namespace dsv3::convert {

// The part of a chunk that belongs to one tensor.
struct ChunkPart {
  enum class Kind {
    kValue,     // evaluated here
    kExpected,  // of a by-product: the bytes that it is expected to have, to be digested only
    kLate,      // of a by-product: not known here
  };
  Kind kind = Kind::kValue;
  std::size_t tensor = 0;       // position in PlannedFile::tensors
  ByteRange range;              // of its value
  std::size_t first_input = 0;  // in Chunk::inputs
  std::size_t num_inputs = 0;
  ByteRange by_product_range;           // of the by-product
  std::uint64_t by_product_offset = 0;  // in the file
  std::uint64_t by_product_place = 0;   // in the chunk's buffer
  // Of a tensor with a base: the pieces of the base's value around the range, and what they read.
  ByteRange base_range = {};
  std::size_t first_base_input = 0;
  std::size_t num_base_inputs = 0;
  // The base's bytes of the range; empty where there is no base.
  std::span<const std::byte> base;
  // In the chunk's buffer; the contents are set but for kLate.
  std::span<std::byte> output;
  std::span<std::byte> by_product;
  // The source bytes that it was made of, valid as long as the chunk; empty where it was made
  // without any.
  std::span<const std::byte> streamed;
  EvaluationCounts counts;
  bool ends_tensor = false;
  bool as_expected = true;  // false where the by-product has other bytes than expected
};

// A packed chunk (chunk_coder.h) of a tensor.
struct PackedPiece {
  std::size_t tensor = 0;   // position in PlannedFile::tensors
  std::uint64_t begin = 0;  // of its bytes in the tensor
  std::span<const std::byte> bytes;
  std::span<const std::byte> base;  // what they were packed against
  std::size_t first_frame = 0;      // in PackedPieces::frames
  std::size_t num_frames = 0;
  bool ends_tensor = false;
};

// What a chunk's tensors are packed to, where the file is packed.
struct PackedPieces {
  formats::AlignedBuffer buffer;
  std::vector<PackedPiece> pieces;  // in the order of the file
  std::vector<formats::SeekEntry> frames;
};

// A piece of an output file with the memory that makes it.
struct Chunk {
  std::size_t lane = 0;
  std::uint64_t index = 0;  // in the order of the file
  std::uint64_t offset = 0;
  std::uint64_t end = 0;
  std::span<std::byte> data;      // [offset, end), at an address that agrees with the offset
                                  // modulo PageWriter::kPageBytes
  std::uint64_t known_bytes = 0;  // of `data`, before the first part that is not known here
  std::vector<ChunkPart> parts;   // in file order; a chunk of header bytes may have none

  formats::AlignedBuffer output_buffer;
  formats::AlignedBuffer input_buffer;
  std::vector<SourceRange> reads;
  std::vector<std::span<const std::byte>> inputs;
  std::vector<std::byte> base_buffer;
  PackedPieces packed;
};

// Whether a tensor is a by-product whose bytes are known only when its maker was evaluated.
bool IsLate(const PlannedTensor& tensor);

// The end of the chunk that begins at `begin`. The chunk ends where its output and its input
// together reach twice `chunk_bytes`, or before, at the last place where the tensor may be cut; a
// longer piece that cannot be cut is a chunk of its own. Ends lie on multiples of
// PageWriter::kPageBytes wherever tensors can be cut there; a file whose expressions read no more
// than they make is cut at the multiples of `chunk_bytes`, which must be one of kPageBytes.
std::uint64_t ChunkEnd(const PlannedFile& file, std::uint64_t begin, std::uint64_t chunk_bytes);

// Upper bounds for the memory of a chunk.
struct ChunkMemory {
  std::uint64_t output_bytes = 0;
  std::uint64_t input_bytes = 0;
  // While it is read, beside the two: what derived tensors are made of.
  std::uint64_t made_bytes = 0;
  std::uint64_t bytes() const { return output_bytes + input_bytes; }
};
// For any chunk of `plan`'s `files` that ChunkEnd makes, with the derived tensors among its
// sources.
ChunkMemory MostChunkMemory(const Plan& plan, std::span<const std::size_t> files,
                            std::uint64_t chunk_bytes,
                            std::span<const DerivedTensors> derived = {});

// Makes the chunk's output buffer at least this large.
void ProvideOutputBuffer(std::size_t bytes, Chunk& chunk);

// First part of making the chunk [chunk.offset, chunk.end) of `file`: reads the input of its bytes.
// `output_bytes` is the least size of its output buffer.
void ReadChunk(const PlannedFile& file, std::uint64_t output_bytes, SourceFiles& sources,
               Chunk& chunk);
// Second part: makes the bytes. `header` is FileHeader(file).
void EvaluateChunk(const PlannedFile& file, std::string_view header, Chunk& chunk);
// Third part: writes the bytes. Returns how many bytes it wrote.
std::uint64_t WriteChunk(const Chunk& chunk, PageWriter& writer);

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convert/packing/packed_file.h"
#include "convert/plan/planned_file.h"
#include "convert/stream/chunk.h"
#include "convert/stream/file_hash.h"
#include "convert/stream/record.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/file_system.h"
#include "formats/seek_table.h"

namespace dsv3::convert {

// Writes a packed file (packed_file.h) from the packed chunks of the file that it holds, from its
// first to its last byte. What comes first, the sizes of the streams, is known last; so the file's
// digest takes the bytes when they are read back, and these are compared with what was written. One
// thread at a time.
class FilePacker {
 public:
  static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

  // `header` is FileHeader(file); `output` takes the bytes and must outlive the packer. Throws
  // Error (kBadInput) as PackedFileLayout does.
  FilePacker(const PlannedFile& file, std::string_view header, formats::OutputFile& output,
             bool sha256);

  // Appends the chunk's packed pieces. Chunks come in the order of the file.
  void Append(const Chunk& chunk);
  // After the last chunk: writes what is left, and the head.
  void Finish();

  // After Finish: the file's bytes.
  std::uint64_t bytes() const { return end_; }
  // Its bytes as they are read back, from the first to the last one, in order. Throws Error
  // (kVerification) where they are not those that were written.
  void AddReadBack(std::span<const std::byte> data);
  // After the last one: makes `record`, which is that of the file that is packed, the packed
  // file's.
  void Complete(FileRecord& record);

 private:
  void Write(std::span<const std::byte> data);
  void Flush(std::size_t bytes);
  // Ends the streams of the tensors before this position.
  void EndStreams(std::size_t tensor);

  const PlannedFile& file_;
  formats::OutputFile& output_;
  const PackedFileLayout layout_;
  formats::AlignedBuffer head_;  // the pages that the head and the first stream begin with
  formats::AlignedBuffer buffer_;
  std::uint64_t buffer_offset_ = 0;  // of its first byte in the file
  std::uint64_t end_ = 0;            // where the next byte is written
  std::size_t tensor_ = 0;           // whose stream is being written
  std::uint64_t stream_begin_ = 0;
  std::vector<formats::SeekEntry> frames_;  // of that stream
  std::vector<std::uint64_t> stream_bytes_;
  formats::Xxh3 base_;  // of the tensor's base
  std::vector<std::string> bases_;
  formats::Xxh3 written_;  // of the streams
  std::uint64_t read_ = 0;
  std::string head_text_;
  formats::Xxh3 read_back_;
  FileHash digest_;
};

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "convert/stream/file_hash.h"
#include "convert/stream/record.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// A file whose head is known only when all behind it is written. So its digest takes the bytes when
// they are read back, and these are compared with what was written. One thread at a time.
class LateHeadFile {
 public:
  static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

  // `name` is the file's for errors; `output` takes the bytes and must outlive this.
  LateHeadFile(std::string name, formats::OutputFile& output, std::uint64_t head_bytes,
               bool sha256);

  // Appends bytes behind the head.
  void Write(std::span<const std::byte> data);
  // Where the next byte goes; after Finish the file's size.
  std::uint64_t end() const { return end_; }
  // Writes what is left, and the head, which has as many bytes as was said.
  void Finish(std::string head);

  // After Finish: takes the file's bytes as they are read back, from the first to the last one, in
  // order. Returns what the digest takes of them, for FileHash::UpdateMany. Throws Error
  // (kVerification) where they are not those that were written.
  FileHash::Part TakeReadBack(std::span<const std::byte> data);
  // After the last one.
  Digests Digest() { return digest_.Finish(); }

 private:
  void Flush(std::size_t bytes);

  const std::string name_;
  formats::OutputFile& output_;
  formats::AlignedBuffer head_;  // the pages that the head and what is behind it begin with
  formats::AlignedBuffer buffer_;
  std::uint64_t buffer_offset_ = 0;  // of its first byte in the file
  std::uint64_t end_ = 0;
  formats::Xxh3 written_;  // of what is behind the head
  std::uint64_t read_ = 0;
  std::string head_text_;
  formats::Xxh3 read_back_;
  FileHash digest_;
};

}  // namespace dsv3::convert

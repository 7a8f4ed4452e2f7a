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
#include "convert/stream/late_head_file.h"
#include "convert/stream/packed_file_writer.h"
#include "convert/stream/record.h"
#include "formats/hash/xxh3.h"
#include "formats/io/file_system.h"
#include "formats/seek_table.h"

namespace dsv3::convert {

// Writes a packed file (packed_file.h) from the packed chunks of the file that it holds.
class FilePacker final : public PackedFileWriter {
 public:
  // `header` is FileHeader(file); `output` takes the bytes and must outlive the packer. Throws
  // Error (kBadInput) as PackedFileLayout does.
  FilePacker(const PlannedFile& file, std::string_view header, formats::OutputFile& output,
             bool sha256);

  void Append(const Chunk& chunk) override;
  void Finish() override;
  std::uint64_t bytes() const override { return out_.end(); }
  FileHash::Part TakeReadBack(std::span<const std::byte> data) override {
    return out_.TakeReadBack(data);
  }
  void Complete(FileRecord& record) override;

 private:
  // Ends the streams of the tensors before this position.
  void EndStreams(std::size_t tensor);

  const PlannedFile& file_;
  const PackedFileLayout layout_;
  LateHeadFile out_;
  std::size_t tensor_ = 0;  // whose stream is being written
  std::uint64_t stream_begin_ = 0;
  std::vector<formats::SeekEntry> frames_;  // of that stream
  std::vector<std::uint64_t> stream_bytes_;
  formats::Xxh3 base_;  // of the tensor's base
  std::vector<std::string> bases_;
};

}  // namespace dsv3::convert

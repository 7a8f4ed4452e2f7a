#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "convert/packing/pull_weights.h"
#include "convert/plan/planned_file.h"
#include "convert/stream/changed_bytes.h"
#include "convert/stream/checked_frame.h"
#include "convert/stream/chunk.h"
#include "convert/stream/file_hash.h"
#include "convert/stream/late_head_file.h"
#include "convert/stream/packed_file_writer.h"
#include "convert/stream/record.h"
#include "formats/hash/xxh3.h"
#include "formats/io/file_system.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// Writes a file of weight deltas (pull_weights.h): of the planned tensors those that differ from
// their bases, each a frame of its differences. Every tensor has a base. What was compressed is
// decompressed and compared before the file is complete.
class PullFileWriter final : public PackedFileWriter {
 public:
  // `output` takes the bytes and must outlive the writer. What an overwrite cannot hold in memory
  // until the end of a tensor goes to files of `make_scratch`.
  PullFileWriter(const PlannedFile& file, PullEncoding encoding, formats::OutputFile& output,
                 MakeScratch make_scratch, bool sha256);

  // Throws Error: kVerification where what was compressed does not give its bytes again; kIo.
  void Append(const Chunk& chunk) override;
  void Finish() override;
  std::uint64_t bytes() const override { return out_.end(); }
  FileHash::Part TakeReadBack(std::span<const std::byte> data) override {
    return out_.TakeReadBack(data);
  }
  void Complete(FileRecord& record) override;

 private:
  // A tensor that changed.
  struct Changed {
    std::size_t tensor = 0;  // position in PlannedFile::tensors
    std::uint64_t stream_bytes = 0;
    std::string checksum;  // of the new bytes
  };

  std::string HeaderText(const std::vector<Changed>& changed) const;
  std::uint64_t HeadBytes() const;
  void AddXor(const ChunkPart& part);
  void AddOverwrite(const ChunkPart& part);
  void EndOverwrite();
  void EndTensor();
  // The frame of the tensor at hand.
  void BeginFrame(std::uint64_t content_bytes);
  void AddContent(std::span<const std::byte> content);
  void AddZeros(std::uint64_t bytes);
  void EndFrame();

  const PlannedFile& file_;
  const PullEncoding encoding_;
  const std::uint64_t head_bytes_;
  LateHeadFile out_;
  std::vector<Changed> changed_;
  std::vector<std::string> bases_;  // digests, by the tensors that ended

  // Of the tensor at hand:
  std::size_t tensor_ = 0;
  formats::Xxh3 new_;
  formats::Xxh3 base_;
  bool is_changed_ = false;  // its frame was begun
  std::uint64_t stream_begin_ = 0;
  std::vector<std::byte> differences_;
  ChangedBytes overwritten_;
  CheckedFrameEncoder frame_;
};

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "convert/plan/plan.h"
#include "convert/stream/executor.h"
#include "convert/stream/file_hash.h"
#include "convert/stream/record.h"
#include "convert/stream/tensor_zeros.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// A weight file that is written from its first byte to its last through a buffer, and digested on
// the way: bytes are staged, then digested, and a full buffer is flushed, so the file sees whole
// aligned pages and one write for many small tensors. One thread at a time.
class AppendedFile {
 public:
  // `plan_file` is the file's position in the plan. Buffers `buffer_bytes`, a multiple of
  // formats::kDirectAlignment. Nothing is allocated or opened before the first Stage.
  AppendedFile(const Plan& plan, std::size_t plan_file, std::size_t buffer_bytes, bool sha256,
               bool tensor_sha256);

  const PlannedFile& file() const { return file_; }
  std::size_t plan_file() const { return plan_file_; }
  std::uint64_t position() const { return buffer_offset_ + filled_; }
  bool complete() const { return position() == file_.bytes; }
  // How much may be staged before the next flush.
  std::size_t room() const { return buffer_bytes_ - filled_; }
  bool is_open() const { return output_ != nullptr; }

  // Appends at most room() bytes; they must not reach beyond the file's end (Error kInternal).
  void Stage(std::span<const std::byte> data);
  void StageZeros(std::size_t bytes);

  // Digests what was staged in several files, side by side where that is faster.
  static void DigestSeveral(std::span<AppendedFile* const> files);

  // After DigestSeveral: writes the buffer where it is full or the file complete. Opens the file
  // when it is not open. Returns how many bytes went to the disk.
  std::size_t Flush(OutputSink& sink);
  // Closes the descriptors; the next flush opens the file again.
  void Close() { output_.reset(); }

  // Makes the file, which must be complete, durable and visible.
  void Commit(OutputSink& sink);

 private:
  void RequireRoom(std::size_t bytes) const;
  void DigestTensors(std::span<const std::byte> staged);
  // Bytes of the tensor at hand, which begin at its byte `first`.
  void DigestTensor(std::uint64_t first, std::span<const std::byte> bytes);
  void LookForZeros(std::uint64_t first, std::span<const std::byte> bytes);
  void FinishTensor();
  void SkipEmptyTensors();

  const PlannedFile& file_;
  const std::size_t plan_file_;
  const std::size_t buffer_bytes_;
  const bool tensor_sha256_;

  std::unique_ptr<formats::OutputFile> output_;
  bool created_ = false;
  formats::AlignedBuffer buffer_;
  std::uint64_t buffer_offset_ = 0;  // offset of the buffer's first byte in the file
  std::size_t filled_ = 0;
  std::size_t digested_ = 0;  // of the buffer
  FileHash file_hash_;
  formats::Xxh3 tensor_xxh3_;
  formats::Sha256 tensor_hash_;
  std::size_t tensor_ = 0;  // position of the tensor that the next digested byte belongs to
  TensorZeros zeros_{TensorZeros::Rows::kSome};  // of that tensor
  FileRecord record_;
};

}  // namespace dsv3::convert

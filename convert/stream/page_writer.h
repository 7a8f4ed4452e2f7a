#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "formats/io/aligned_buffer.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Writes an output file in pieces that begin and end anywhere, from several threads. The whole
// pages of a piece are written from where they lie; the bytes left at its ends wait in memory until
// other pieces complete their page. So all writes to the file are aligned, except at its end, and
// nothing is read to be written again. Each byte of the file must be given once.
class PageWriter {
 public:
  static constexpr std::size_t kPageBytes = formats::kDirectAlignment;

  // `output` must outlive the writer.
  PageWriter(formats::OutputFile& output, std::uint64_t file_bytes)
      : output_(output), file_bytes_(file_bytes) {}

  // Whole pages need not be copied where address and offset agree modulo kPageBytes.
  void Write(std::uint64_t offset, std::span<const std::byte> data);

  // How many bytes were given. When that is all of them, all are in the file.
  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  struct Page {
    formats::AlignedBuffer bytes;
    std::size_t filled = 0;
  };

  // Adds a piece of one page.
  void Join(std::uint64_t offset, std::span<const std::byte> data);

  formats::OutputFile& output_;
  const std::uint64_t file_bytes_;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::mutex mutex_;                     // guards what follows
  std::map<std::uint64_t, Page> pages_;  // incomplete ones by offset
};

}  // namespace dsv3::convert

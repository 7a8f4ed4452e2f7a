#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/file_range.h"

namespace dsv3::formats {

// Whether streaming reads may pass the page cache by.
enum class DirectIo {
  kWherePossible,
  kNever,
};

// A regular file open for reading. Reads are positioned, so one instance serves many threads.
class InputFile {
 public:
  // Opens without blocking: a directory, FIFO, device or socket is kBadInput, as are a missing file
  // and a symlink loop; a missing permission or failing disk is kIo. Errors call the file `name`.
  InputFile(const std::filesystem::path& path, std::string name,
            DirectIo direct_io = DirectIo::kWherePossible);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;

  std::uint64_t bytes() const { return bytes_; }       // when it was opened
  std::int64_t mtime_ns() const { return mtime_ns_; }  // when it was opened
  const std::string& name() const { return name_; }

  // Fills `out` from `offset` through the page cache. Throws Error: kBadInput when the file ends
  // before, kIo when the disk fails.
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const;

  // From now on `reads` lists what ReadAt reads. One thread alone may then use the file.
  void ListReads() { reads_.emplace(); }
  // In the order of the reads; empty without ListReads.
  const std::vector<FileRange>& reads() const;

  // How many bytes of scratch ReadStreaming needs for `length` bytes.
  static std::size_t ScratchBytes(std::size_t length);

  // Reads [offset, offset + length) without leaving traces in the page cache: from there if all of
  // it is cached already, otherwise past it where the file system allows that (O_DIRECT; found out
  // on the first try, falling back to buffered reads for good). Returns where in `scratch` the
  // bytes lie. `scratch` must be aligned to kDirectAlignment and hold
  // ScratchBytes(length). Errors as ReadAt.
  std::span<const std::byte> ReadStreaming(std::uint64_t offset, std::size_t length,
                                           std::span<std::byte> scratch) const;

 private:
  // direct_fd_ when it is not a descriptor.
  static constexpr int kNotOpened = -1;
  static constexpr int kUnavailable = -2;

  // The descriptor for direct reads, opened by the first call; < 0 where direct reads are not
  // possible.
  int DirectFd() const;
  // Reads the aligned range [begin, begin + out.size()) as far as direct reads go; returns the
  // number of bytes that are in place.
  std::size_t ReadDirect(std::uint64_t begin, std::span<std::byte> out) const;
  void CheckRange(std::uint64_t offset, std::size_t length) const;
  void Close() noexcept;

  std::filesystem::path path_;
  std::string name_;
  int fd_ = -1;
  mutable std::atomic<int> direct_fd_ = kNotOpened;
  mutable std::atomic<bool> direct_works_ = true;
  std::uint64_t bytes_ = 0;
  std::int64_t mtime_ns_ = 0;
  mutable std::optional<std::vector<FileRange>> reads_;
};

}  // namespace dsv3::formats

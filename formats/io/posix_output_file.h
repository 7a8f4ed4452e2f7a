#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>

#include "formats/io/file_system.h"
#include "formats/io/posix.h"

namespace dsv3::formats {

// A file on a real disk, by up to two descriptors. Private to formats/io.
//
// Whole aligned blocks go through the direct descriptor, everything else through the page cache.
// The two ways meet only at block borders, yet a page of the cache may be larger than a block, so a
// buffered write has the file to itself; it is the rare case (the end of a file).
//
// Where direct writes are not possible, a streamed file is written through the page cache and
// pushed to the disk range by range behind the writer, so that neither the dirty pages nor the
// final fsync grow with the file.
class PosixOutputFile final : public OutputFile {
 public:
  // `direct_fd` may be empty. `streamed` says that the file is large and not read again soon.
  PosixOutputFile(std::string path, UniqueFd fd, UniqueFd direct_fd, bool streamed);

  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override;
  void Truncate(std::uint64_t bytes) override;
  void Sync() override;

 private:
  struct Range {
    std::uint64_t offset;
    std::uint64_t bytes;
  };

  // Writes whole blocks from an aligned address; returns how many bytes direct writing took.
  std::size_t WriteDirect(std::uint64_t offset, std::span<const std::byte> data);
  void WriteBuffered(std::uint64_t offset, std::span<const std::byte> data);
  // Starts writing the range back and waits for older ones while more than a few are under way.
  void PushToDisk(Range range);

  const std::string path_;
  const UniqueFd fd_;
  const UniqueFd direct_fd_;
  const bool streamed_;
  std::atomic<bool> direct_works_;
  std::shared_mutex way_;  // shared by direct writes, exclusive for buffered ones beside them
  std::mutex under_way_mutex_;
  std::deque<Range> under_way_;  // being written back, oldest first; guarded by under_way_mutex_
  std::uint64_t under_way_bytes_ = 0;
};

}  // namespace dsv3::formats

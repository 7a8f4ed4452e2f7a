#include "formats/io/posix_output_file.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::formats {
namespace {

// How much a buffered stream may have between the page cache and the disk.
constexpr std::uint64_t kMostBytesUnderWay = 32 << 20;

bool IsAligned(std::uint64_t value) { return value % kDirectAlignment == 0; }

}  // namespace

PosixOutputFile::PosixOutputFile(std::string path, UniqueFd fd, UniqueFd direct_fd, bool streamed)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      direct_fd_(std::move(direct_fd)),
      streamed_(streamed),
      direct_works_(direct_fd_.get() >= 0) {}

void PosixOutputFile::WriteAt(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.empty()) return;
  if (direct_works_.load(std::memory_order_relaxed) && IsAligned(offset) &&
      IsAligned(reinterpret_cast<std::uintptr_t>(data.data()))) {
    const std::shared_lock lock(way_);
    const std::size_t blocks_bytes =
        static_cast<std::size_t>(AlignDown(data.size(), kDirectAlignment));
    const std::size_t done = WriteDirect(offset, data.first(blocks_bytes));
    offset += done;
    data = data.subspan(done);
    if (data.empty()) return;
  }
  if (direct_works_.load(std::memory_order_relaxed)) {
    const std::unique_lock lock(way_);
    WriteBuffered(offset, data);
    return;
  }
  WriteBuffered(offset, data);
  if (streamed_) PushToDisk({offset, data.size()});
}

std::size_t PosixOutputFile::WriteDirect(std::uint64_t offset, std::span<const std::byte> data) {
  std::size_t done = 0;
  // After a short write that ends inside a block the rest goes through the page cache.
  while (done < data.size() && IsAligned(done)) {
    const ssize_t count = RetryInterrupted([&] {
      return ::pwrite(direct_fd_.get(), data.data() + done, data.size() - done,
                      static_cast<off_t>(offset + done));
    });
    if (count < 0 && MeansUnsupported(errno)) {
      direct_works_.store(false, std::memory_order_relaxed);
      break;
    }
    if (count < 0) throw IoError("write", path_, errno);
    if (count == 0) throw IoError("write", path_, EIO);
    done += static_cast<std::size_t>(count);
  }
  return done;
}

void PosixOutputFile::WriteBuffered(std::uint64_t offset, std::span<const std::byte> data) {
  for (std::size_t done = 0; done < data.size();) {
    const ssize_t count = RetryInterrupted([&] {
      return ::pwrite(fd_.get(), data.data() + done, data.size() - done,
                      static_cast<off_t>(offset + done));
    });
    if (count < 0) throw IoError("write", path_, errno);
    // Nothing written and no reason given: going on would not end.
    if (count == 0) throw IoError("write", path_, EIO);
    done += static_cast<std::size_t>(count);
  }
}

void PosixOutputFile::PushToDisk(Range range) {
  const auto sync = [this](const Range& r, unsigned flags) {
    const int result = RetryInterrupted([&] {
      return ::sync_file_range(fd_.get(), static_cast<off_t>(r.offset), static_cast<off_t>(r.bytes),
                               flags);
    });
    // It only spreads the work of the fsync that comes at the end; a file system may not know it.
    if (result != 0 && !MeansUnsupported(errno)) throw IoError("write", path_, errno);
  };
  sync(range, SYNC_FILE_RANGE_WRITE);

  std::deque<Range> oldest;
  {
    const std::lock_guard lock(under_way_mutex_);
    under_way_.push_back(range);
    under_way_bytes_ += range.bytes;
    while (under_way_bytes_ > kMostBytesUnderWay) {
      under_way_bytes_ -= under_way_.front().bytes;
      oldest.push_back(under_way_.front());
      under_way_.pop_front();
    }
  }
  for (const Range& r : oldest) {
    sync(r, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    ::posix_fadvise(fd_.get(), static_cast<off_t>(r.offset), static_cast<off_t>(r.bytes),
                    POSIX_FADV_DONTNEED);
  }
}

void PosixOutputFile::Truncate(std::uint64_t bytes) {
  const std::unique_lock lock(way_);
  const int result =
      RetryInterrupted([&] { return ::ftruncate(fd_.get(), static_cast<off_t>(bytes)); });
  if (result != 0) throw IoError("set the length of", path_, errno);
}

void PosixOutputFile::Sync() {
  // Both descriptors are of one file, and fsync works on the file: direct writes are covered too.
  if (RetryInterrupted([&] { return ::fsync(fd_.get()); }) != 0) {
    throw IoError("write", path_, errno);
  }
}

}  // namespace dsv3::formats

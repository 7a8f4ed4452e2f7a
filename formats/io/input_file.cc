#include "formats/io/input_file.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/dead_link.h"
#include "formats/io/page_cache.h"
#include "formats/io/posix.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

Error BadInput(const std::string& name, std::string message) {
  return Error(ErrorCode::kBadInput, std::move(message), {.file = name, .tensor = {}});
}

Error OpenError(const std::filesystem::path& path, const std::string& name, int errno_value) {
  switch (errno_value) {
    case ENOENT:
      if (const std::string dead = DeadLinkProblem(path); !dead.empty()) {
        return BadInput(name, fmt::format("{}: it is {}; download the file again, or repair the "
                                          "link",
                                          ShownPath(name), dead));
      }
      return BadInput(name, fmt::format("{}: there is no such file; check the path, or download it "
                                        "if it belongs to a checkpoint",
                                        ShownPath(name)));
    case ENOTDIR:
      return BadInput(name,
                      fmt::format("{}: there is no such file, because a part of the path is not a "
                                  "directory; check the path",
                                  ShownPath(name)));
    case ELOOP:
      return BadInput(name, fmt::format("{}: its symbolic links lead in a circle; download the "
                                        "file again or repair the links",
                                        ShownPath(name)));
    case ENAMETOOLONG:
      return BadInput(name, fmt::format("{}: the name is too long for this file system; check the "
                                        "path",
                                        ShownPath(name)));
    case ENXIO:
    case ENODEV:
      return BadInput(name, fmt::format("{}: expected a regular file, found a socket or a device; "
                                        "check the path",
                                        ShownPath(name)));
    default:
      return IoError("open", name, errno_value);
  }
}

const char* KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO (named pipe)";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "something else";
}

}  // namespace

InputFile::InputFile(const std::filesystem::path& path, std::string name, DirectIo direct_io)
    : path_(path), name_(std::move(name)), direct_works_(direct_io == DirectIo::kWherePossible) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer. Regular files don't care.
  UniqueFd fd(RetryInterrupted(
      [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); }));
  if (fd.get() < 0) throw OpenError(path, name_, errno);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw IoError("examine", name_, errno);
  if (!S_ISREG(status.st_mode)) {
    throw BadInput(name_, fmt::format("{}: expected a regular file, found {}; check the path",
                                      ShownPath(name_), KindOf(status.st_mode)));
  }
  bytes_ = static_cast<std::uint64_t>(status.st_size);
  mtime_ns_ = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  fd_ = fd.release();
}

InputFile::~InputFile() { Close(); }

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      name_(std::move(other.name_)),
      fd_(std::exchange(other.fd_, -1)),
      direct_fd_(other.direct_fd_.exchange(kNotOpened)),
      direct_works_(other.direct_works_.load()),
      bytes_(other.bytes_),
      mtime_ns_(other.mtime_ns_),
      reads_(std::move(other.reads_)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  if (this == &other) return *this;
  Close();
  path_ = std::move(other.path_);
  name_ = std::move(other.name_);
  fd_ = std::exchange(other.fd_, -1);
  direct_fd_ = other.direct_fd_.exchange(kNotOpened);
  direct_works_ = other.direct_works_.load();
  bytes_ = other.bytes_;
  mtime_ns_ = other.mtime_ns_;
  reads_ = std::move(other.reads_);
  return *this;
}

void InputFile::Close() noexcept {
  const UniqueFd buffered(std::exchange(fd_, -1));
  const UniqueFd direct(std::max(direct_fd_.exchange(kNotOpened), -1));
}

void InputFile::CheckRange(std::uint64_t offset, std::size_t length) const {
  if (offset <= bytes_ && length <= bytes_ - offset) return;
  throw BadInput(name_, fmt::format("{}: {} from offset {} are needed, but the file ends at "
                                    "byte {}; it is incomplete, download it again",
                                    ShownPath(name_), ExactBytes(length), offset, bytes_));
}

const std::vector<FileRange>& InputFile::reads() const {
  static const std::vector<FileRange> kNone;
  return reads_ ? *reads_ : kNone;
}

void InputFile::ReadAt(std::uint64_t offset, std::span<std::byte> out) const {
  CheckRange(offset, out.size());
  if (reads_) reads_->push_back({offset, out.size()});
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t count = RetryInterrupted([&] {
      return ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    });
    if (count < 0) throw IoError("read", name_, errno);
    if (count == 0) {
      throw BadInput(name_, fmt::format("{}: the file ended at byte {}, expected {}; it "
                                        "changed while it was being read, so run the command again "
                                        "when nothing writes to it any more",
                                        ShownPath(name_), offset + done, ExactBytes(bytes_)));
    }
    done += static_cast<std::size_t>(count);
  }
}

std::size_t InputFile::ScratchBytes(std::size_t length) {
  // The worst case: the first and the last wanted byte each just reach into a block.
  return static_cast<std::size_t>(AlignUp(length, kDirectAlignment)) + kDirectAlignment;
}

int InputFile::DirectFd() const {
  const int known = direct_fd_.load(std::memory_order_acquire);
  if (known != kNotOpened) return known;
  UniqueFd fd(RetryInterrupted([&] {
    return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_DIRECT);
  }));
  struct stat ours;
  struct stat now;
  // The path may lead to another file by now; this one goes on with what was opened first.
  const bool same = fd.get() >= 0 && ::fstat(fd_, &ours) == 0 && ::fstat(fd.get(), &now) == 0 &&
                    ours.st_dev == now.st_dev && ours.st_ino == now.st_ino;
  int expected = kNotOpened;
  if (direct_fd_.compare_exchange_strong(expected, same ? fd.get() : kUnavailable,
                                         std::memory_order_acq_rel)) {
    return same ? fd.release() : kUnavailable;
  }
  return expected;  // another thread was first
}

std::size_t InputFile::ReadDirect(std::uint64_t begin, std::span<std::byte> out) const {
  if (!direct_works_.load(std::memory_order_relaxed)) return 0;
  const int fd = DirectFd();
  if (fd < 0) return 0;
  std::size_t done = 0;
  // A count that is not a whole number of blocks ends at the end of the file, or at what the file
  // system does in one go; the caller gets the rest by buffered reads.
  while (done < out.size() && done % kDirectAlignment == 0) {
    const ssize_t count = RetryInterrupted([&] {
      return ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(begin + done));
    });
    if (count < 0 && MeansUnsupported(errno)) {
      direct_works_.store(false, std::memory_order_relaxed);
      break;
    }
    if (count < 0) throw IoError("read", name_, errno);
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

std::span<const std::byte> InputFile::ReadStreaming(std::uint64_t offset, std::size_t length,
                                                    std::span<std::byte> scratch) const {
  CheckRange(offset, length);
  const std::uint64_t begin = AlignDown(offset, kDirectAlignment);
  const std::uint64_t end = AlignUp(offset + length, kDirectAlignment);
  const std::size_t lead = static_cast<std::size_t>(offset - begin);
  const std::size_t wanted = lead + length;
  // Memory is faster than the disk, and a direct read of fresh pages would first write them back.
  const bool cached = IsInPageCache(fd_, offset, offset + length);
  const std::size_t in_place =
      cached ? 0 : ReadDirect(begin, scratch.first(static_cast<std::size_t>(end - begin)));
  if (in_place < wanted) {
    const std::size_t first = std::max(in_place, lead);
    ReadAt(begin + first, scratch.subspan(first, wanted - first));
    // Streamed bytes are not read a second time: leave the page cache as it was.
    if (!cached) {
      ::posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(end - begin),
                      POSIX_FADV_DONTNEED);
    }
  }
  return scratch.subspan(lead, length);
}

}  // namespace dsv3::formats

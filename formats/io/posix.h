#pragma once

#include <cerrno>
#include <utility>

#include <unistd.h>

// Helpers of the POSIX implementations in formats/io; private to that folder.
namespace dsv3::formats {

// Owns a file descriptor; -1 is none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() {
    // Bytes that must not be lost were synced before; any other error has no one to report to.
    if (fd_ >= 0) ::close(fd_);
  }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

// Repeats a system call while signals interrupt it; its result, with errno set when that is -1.
template <typename Call>
auto RetryInterrupted(Call call) {
  while (true) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

// The errno values by which a file system says that it does not do O_DIRECT, fallocate or the like.
inline bool MeansUnsupported(int errno_value) {
  return errno_value == EINVAL || errno_value == EOPNOTSUPP || errno_value == ENOTSUP ||
         errno_value == ENOSYS;
}

}  // namespace dsv3::formats

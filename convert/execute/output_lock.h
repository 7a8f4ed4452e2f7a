#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <sys/file.h>

namespace dsv3::convert {

inline constexpr std::string_view kLockName = ".dsv3-lock";

// Keeps a second run out of an output directory, by a lock on the file .dsv3-lock in it. The kernel
// drops the lock with the process, however that ends. On file systems without locks the file's
// existence is the lock; one that a dead process of this host left is taken over, one of another
// host is for the user to remove.
class OutputLock {
 public:
  // As flock(2).
  using Flock = int (*)(int fd, int operation);

  // `directory` must exist. Throws Error: kUsage when another run holds it (names process and
  // host), kIo. A test may give its own `flock`.
  explicit OutputLock(const std::filesystem::path& directory, Flock flock = ::flock);
  // Removes the file.
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  bool TryLockFile();
  void TakeByExistence(bool created);

  std::filesystem::path path_;
  Flock flock_;
  int fd_ = -1;
};

}  // namespace dsv3::convert

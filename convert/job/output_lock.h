#pragma once

#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include <sys/file.h>

#include "convert/job/run_id.h"

namespace dsv3::convert {

inline constexpr std::string_view kLockName = ".dsv3-lock";

// Keeps a second run out of an output directory, by a lock on the file .dsv3-lock in it. The kernel
// drops the lock with the process, however that ends. On file systems without locks the file's
// existence is the lock; a run takes over a file that a dead process of this host left; the user
// must remove one of another host.
class OutputLock {
 public:
  // As flock(2).
  using Flock = int (*)(int fd, int operation);

  // The lock of `run`: of the job .dsv3-lock, of a part .dsv3-lock-part-3-of-16. `directory` must
  // exist. Throws Error: kUsage when another run holds it (names process and host), kIo. A test
  // may give its own `flock`.
  explicit OutputLock(const std::filesystem::path& directory, Flock flock = ::flock,
                      const RunId& run = {});
  // Removes the file.
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  bool TryLockFile();
  void TakeByExistence(bool created);

  std::filesystem::path path_;
  RunId run_;
  Flock flock_;
  int fd_ = -1;
};

// The locks that a run needs. Parts of one job run beside each other, each with its own lock, but
// not beside a run of the whole job, nor beside parts of another number. Each run takes its own
// lock first and then looks at the locks of others, so of two runs that begin at once, one sees the
// other.
class RunLocks {
 public:
  // Of the part `run`, or of a run of the whole job: that also holds the lock of every part whose
  // file is there, and removes these files in the end. Throws as OutputLock.
  RunLocks(const std::filesystem::path& directory, const RunId& run,
           OutputLock::Flock flock = ::flock);

 private:
  std::vector<std::unique_ptr<OutputLock>> locks_;
};

}  // namespace dsv3::convert

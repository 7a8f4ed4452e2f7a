#pragma once

#include <filesystem>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace dsv3::testing {

// Makes a file or a directory immutable, as `chattr +i` does, until it is destroyed. Only root can,
// and only on some file systems: see is_set.
class Immutable {
 public:
  explicit Immutable(const std::filesystem::path& path)
      : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), is_set_(Change(true)) {}
  ~Immutable() {
    if (is_set_) Change(false);
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Immutable(const Immutable&) = delete;
  Immutable& operator=(const Immutable&) = delete;

  bool is_set() const { return is_set_; }

 private:
  bool Change(bool on) const {
    int flags = 0;
    if (descriptor_ < 0 || ::ioctl(descriptor_, FS_IOC_GETFLAGS, &flags) != 0) return false;
    flags = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
    return ::ioctl(descriptor_, FS_IOC_SETFLAGS, &flags) == 0;
  }

  const int descriptor_;
  const bool is_set_;
};

}  // namespace dsv3::testing

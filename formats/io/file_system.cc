#include "formats/io/file_system.h"

#include <cerrno>
#include <cstdio>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/posix.h"
#include "formats/io/posix_output_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

constexpr int kOutputFlags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;

UniqueFd OpenOutput(const std::filesystem::path& path, int more_flags, const char* action) {
  UniqueFd fd(
      RetryInterrupted([&] { return ::open(path.c_str(), kOutputFlags | more_flags, 0666); }));
  if (fd.get() < 0 && errno == ELOOP) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot {} {}: it is a symbolic link, or the links on the way to it "
                            "lead in a circle; remove the link and run the same command again",
                            action, ShownPath(path)),
                {.file = path.string(), .tensor = {}});
  }
  if (fd.get() < 0) throw IoError(action, path.string(), errno);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw IoError(action, path.string(), errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot {} {}: it is not a regular file; remove it or choose another "
                            "directory",
                            action, ShownPath(path)),
                {.file = path.string(), .tensor = {}});
  }
  return fd;
}

// Empty where the file system has no O_DIRECT.
UniqueFd OpenDirect(const std::filesystem::path& path, int beside) {
  UniqueFd fd(RetryInterrupted([&] { return ::open(path.c_str(), kOutputFlags | O_DIRECT); }));
  struct stat ours;
  struct stat found;
  const bool same = fd.get() >= 0 && ::fstat(beside, &ours) == 0 &&
                    ::fstat(fd.get(), &found) == 0 && ours.st_dev == found.st_dev &&
                    ours.st_ino == found.st_ino;
  return same ? std::move(fd) : UniqueFd();
}

// The raw call: posix_fallocate would write zeros where the file system cannot reserve.
void Reserve(const std::filesystem::path& path, int fd, std::uint64_t bytes) {
  const int result =
      RetryInterrupted([&] { return ::fallocate(fd, 0, 0, static_cast<off_t>(bytes)); });
  if (result == 0 || MeansUnsupported(errno)) return;
  const int reason = errno;
  // Part of the space may be taken already; give it back.
  ::unlink(path.c_str());
  if (reason == ENOSPC || reason == EDQUOT) {
    throw IoError(fmt::format("reserve {} for", ExactBytes(bytes)), path.string(), reason);
  }
  throw IoError("create", path.string(), reason);
}

// Names files that are complete; where that cannot be done, no conversion can end.
Error RenameError(const std::filesystem::path& from, const std::filesystem::path& to,
                  int errno_value) {
  Error error = IoError(fmt::format("rename {} to", ShownPath(from)), to.string(), errno_value);
  const bool may_be_unsupported = MeansUnsupported(errno_value) || errno_value == EPERM ||
                                  errno_value == EBUSY || errno_value == EXDEV;
  if (!may_be_unsupported) return error;
  return Error(error.code(),
               error.message() +
                   "; some file systems cannot rename files (mountpoint-s3), or not while they are "
                   "open (gcsfuse): write to a local disk or to another mount, and copy the "
                   "complete files there",
               error.place());
}

class Posix final : public FileSystem {
 public:
  std::unique_ptr<OutputFile> Create(const std::filesystem::path& path,
                                     std::uint64_t expected_bytes) override {
    UniqueFd fd = OpenOutput(path, O_CREAT | O_TRUNC, "create");
    const bool streamed = expected_bytes > 0;
    UniqueFd direct_fd;
    if (streamed) {
      Reserve(path, fd.get(), expected_bytes);
      direct_fd = OpenDirect(path, fd.get());
    }
    return std::make_unique<PosixOutputFile>(path.string(), std::move(fd), std::move(direct_fd),
                                             streamed);
  }

  std::unique_ptr<OutputFile> OpenExisting(const std::filesystem::path& path) override {
    UniqueFd fd = OpenOutput(path, 0, "write");
    UniqueFd direct_fd = OpenDirect(path, fd.get());
    return std::make_unique<PosixOutputFile>(path.string(), std::move(fd), std::move(direct_fd),
                                             true);
  }

  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) throw RenameError(from, to, errno);
  }

  void Remove(const std::filesystem::path& path) override {
    if (::unlink(path.c_str()) != 0) throw IoError("remove", path.string(), errno);
  }

  void CreateDirectory(const std::filesystem::path& path) override {
    if (::mkdir(path.c_str(), 0777) == 0) return;
    const int reason = errno;
    std::error_code ignored;
    if (reason == EEXIST && std::filesystem::is_directory(path, ignored)) return;
    throw IoError("create directory", path.string(), reason);
  }

  void RemoveDirectory(const std::filesystem::path& path) override {
    if (::rmdir(path.c_str()) != 0) throw IoError("remove directory", path.string(), errno);
  }

  void SyncDirectory(const std::filesystem::path& path) override {
    const UniqueFd fd(
        RetryInterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    if (fd.get() < 0) throw IoError("open directory", path.string(), errno);
    const int result = RetryInterrupted([&] { return ::fsync(fd.get()); });
    // Some network and FUSE file systems have no fsync for directories; their own rules hold there.
    if (result != 0 && !MeansUnsupported(errno) && errno != EBADF) {
      throw IoError("write directory", path.string(), errno);
    }
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static Posix file_system;
  return file_system;
}

std::vector<std::filesystem::path> CreateDirectories(FileSystem& fs,
                                                     const std::filesystem::path& path) {
  std::vector<std::filesystem::path> missing;
  std::error_code error;
  std::filesystem::path next = path;
  for (; !next.empty() && !std::filesystem::exists(next, error); next = next.parent_path()) {
    if (error) throw IoError("examine", next.string(), error.value());
    missing.push_back(next);
  }
  if (!missing.empty() && !next.empty() && !std::filesystem::is_directory(next, error)) {
    throw Error(
        ErrorCode::kUsage,
        ShownPath(path) + ": " + ShownPath(next) + " is not a directory; choose another place",
        {path.string(), ""});
  }
  for (auto made = missing.rbegin(); made != missing.rend(); ++made) {
    fs.CreateDirectory(*made);
    const std::filesystem::path parent = made->parent_path();
    fs.SyncDirectory(parent.empty() ? "." : parent);
  }
  return missing;
}

std::uint64_t FreeDiskBytes(const std::filesystem::path& path) {
  std::filesystem::path existing = path.empty() ? std::filesystem::path(".") : path;
  struct statvfs status;
  while (RetryInterrupted([&] { return ::statvfs(existing.c_str(), &status); }) != 0) {
    const int reason = errno;
    const std::filesystem::path parent =
        existing.has_parent_path() ? existing.parent_path() : std::filesystem::path(".");
    if ((reason != ENOENT && reason != ENOTDIR) || parent == existing) {
      throw IoError("find the free space at", existing.string(), reason);
    }
    existing = parent;
  }
  // Some network file systems give no numbers: then only writing can show whether there is space.
  if (status.f_blocks == 0) return std::numeric_limits<std::uint64_t>::max();
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace dsv3::formats

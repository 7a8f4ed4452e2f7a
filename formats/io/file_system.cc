#include "formats/io/file_system.h"

#include <cerrno>
#include <cstdio>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/dead_link.h"
#include "formats/io/posix.h"
#include "formats/io/posix_output_file.h"
#include "formats/io/posix_scratch_file.h"
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

// Opens `path` as a new file. What another name also leads to, such as a shard of the source that
// an earlier run linked, must keep its bytes.
UniqueFd OpenNew(const std::filesystem::path& path) {
  UniqueFd fd = OpenOutput(path, O_CREAT, "create");
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw IoError("create", path.string(), errno);
  if (status.st_nlink > 1) {
    if (::unlink(path.c_str()) != 0) throw IoError("create", path.string(), errno);
    return OpenOutput(path, O_CREAT | O_EXCL, "create");
  }
  if (status.st_size > 0 && RetryInterrupted([&] { return ::ftruncate(fd.get(), 0); }) != 0) {
    throw IoError("create", path.string(), errno);
  }
  return fd;
}

// A file that is complete: it shares the bytes of another one.
// Its descriptor stays open for fsync.
class SharedFile final : public OutputFile {
 public:
  SharedFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  void WriteAt(std::uint64_t, std::span<const std::byte>) override { Refuse(); }
  void Truncate(std::uint64_t) override { Refuse(); }
  void Sync() override {
    if (RetryInterrupted([&] { return ::fsync(fd_.get()); }) != 0) {
      throw IoError("write", path_, errno);
    }
  }

 private:
  [[noreturn]] void Refuse() const {
    throw Error(ErrorCode::kInternal, path_ + ": a shared file is written");
  }

  std::string path_;
  UniqueFd fd_;
};

std::unique_ptr<OutputFile> LinkFile(const std::filesystem::path& from,
                                     const std::filesystem::path& to) {
  ::unlink(to.c_str());  // where it is something else, the link fails
  if (::link(from.c_str(), to.c_str()) != 0) return nullptr;
  UniqueFd fd(RetryInterrupted([&] { return ::open(to.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (fd.get() < 0) throw IoError("open", to.string(), errno);
  return std::make_unique<SharedFile>(to.string(), std::move(fd));
}

std::unique_ptr<OutputFile> CloneFile(const std::filesystem::path& from,
                                      const std::filesystem::path& to) {
  const UniqueFd source(
      RetryInterrupted([&] { return ::open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
  if (source.get() < 0) throw IoError("open", from.string(), errno);
  UniqueFd fd = OpenNew(to);
  if (::ioctl(fd.get(), FICLONE, source.get()) != 0) {
    // EOPNOTSUPP, EXDEV, EINVAL, EPERM …: whatever the reason is, the bytes can be written.
    ::unlink(to.c_str());
    return nullptr;
  }
  return std::make_unique<SharedFile>(to.string(), std::move(fd));
}

class Posix final : public FileSystem {
 public:
  std::unique_ptr<OutputFile> Share(const std::filesystem::path& from,
                                    const std::filesystem::path& to, Sharing sharing) override {
    return sharing == Sharing::kInode ? LinkFile(from, to) : CloneFile(from, to);
  }

  std::unique_ptr<OutputFile> Create(const std::filesystem::path& path,
                                     std::uint64_t expected_bytes) override {
    UniqueFd fd = OpenNew(path);
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

  std::unique_ptr<ScratchFile> CreateScratch(const std::filesystem::path& directory) override {
    return std::make_unique<PosixScratchFile>(directory);
  }

  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) throw RenameError(from, to, errno);
    // Where both names are of one file, rename does nothing.
    struct stat old_name;
    struct stat new_name;
    if (::lstat(from.c_str(), &old_name) == 0 && ::lstat(to.c_str(), &new_name) == 0 &&
        old_name.st_dev == new_name.st_dev && old_name.st_ino == new_name.st_ino) {
      ::unlink(from.c_str());
    }
  }

  void Remove(const std::filesystem::path& path) override {
    if (::unlink(path.c_str()) != 0) throw IoError("remove", path.string(), errno);
  }

  void CreateDirectory(const std::filesystem::path& path) override {
    if (::mkdir(path.c_str(), 0777) == 0) return;
    const int reason = errno;
    std::error_code ignored;
    if (reason == EEXIST && std::filesystem::is_directory(path, ignored)) return;
    if (const std::string problem = DeadLinkProblem(path); !problem.empty()) {
      throw Error(ErrorCode::kIo,
                  fmt::format("cannot create directory {}: it is {}; repair the link, or name "
                              "another directory",
                              ShownPath(path), problem),
                  {path.string(), ""});
    }
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

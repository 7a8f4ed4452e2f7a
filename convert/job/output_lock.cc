#include "convert/job/output_lock.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;

struct Holder {
  pid_t pid = 0;
  std::string host;
};

std::string HostName() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

Holder ReadHolder(int fd) {
  std::array<char, 300> text{};
  const ssize_t length = pread(fd, text.data(), text.size() - 1, 0);
  Holder holder;
  if (length <= 0) return holder;
  const std::string_view view(text.data(), static_cast<std::size_t>(length));
  const std::size_t space = view.find(' ');
  if (space == std::string_view::npos) return holder;
  holder.pid = static_cast<pid_t>(std::strtol(text.data(), nullptr, 10));
  holder.host = view.substr(space + 1, view.find('\n') - space - 1);
  return holder;
}

void WriteHolder(int fd) {
  const std::string text = fmt::format("{} {}\n", getpid(), HostName());
  // Only for the message that a second run gives; the lock does not depend on it.
  if (ftruncate(fd, 0) != 0 || pwrite(fd, text.data(), text.size(), 0) < 0) return;
}

[[noreturn]] void FailHeld(const std::filesystem::path& path, const RunId& run,
                           const Holder& holder, std::string_view advice) {
  const std::string who =
      holder.pid != 0 ? fmt::format(" (process {} on {})", holder.pid, holder.host) : std::string();
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: another run is {}{}; {}", formats::ShownPath(path.parent_path()),
                          run.kind == RunId::Kind::kPart ? "making " + ShownName(run)
                                                         : "writing to this directory",
                          who, advice),
              {path.parent_path().string(), ""});
}

bool LocksUnsupported(int error) {
  return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == ENOTSUP ||
         error == EINVAL;
}

// Where the file's existence is the lock, only the user knows whether a run on another machine is
// still running.
[[noreturn]] void FailHeldByExistence(const std::filesystem::path& path, const RunId& run,
                                      const Holder& holder) {
  // An empty file may be that of a run which is starting.
  const bool may_be_dead = holder.pid == 0 || holder.host != HostName();
  FailHeld(path, run, holder,
           may_be_dead ? fmt::format("if that run has died, remove {} and run the same command "
                                     "again",
                                     formats::ShownPath(path))
                       : "wait until it has ended");
}

bool IsDead(const Holder& holder) {
  return holder.pid != 0 && holder.host == HostName() && kill(holder.pid, 0) != 0 && errno == ESRCH;
}

// Throws when the run that this lock belongs to is under way. Leaves the file as it is: only the
// run that holds the lock may remove it.
void RequireFree(const std::filesystem::path& directory, const RunId& run,
                 OutputLock::Flock flock) {
  const std::filesystem::path path = directory / FileNameOf(kLockName, run);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) {
    if (errno == ENOENT) return;
    throw IoError("open", path.string(), errno);
  }
  // The lock is shared: of two parts that begin at once, neither takes this check of the other for
  // a run.
  const bool locked = flock(fd, LOCK_SH | LOCK_NB) == 0;
  const int error = errno;
  const Holder holder = ReadHolder(fd);
  close(fd);
  if (locked) return;
  if (LocksUnsupported(error)) {
    if (!IsDead(holder)) FailHeldByExistence(path, run, holder);
    return;
  }
  if (error != EWOULDBLOCK) throw IoError("lock", path.string(), error);
  FailHeld(path, run, holder, "wait until it has ended");
}

}  // namespace

OutputLock::OutputLock(const std::filesystem::path& directory, Flock flock, const RunId& run)
    : path_(directory / FileNameOf(kLockName, run)), run_(run), flock_(flock) {
  // A run that ends removes the file, perhaps between our open and our lock: then the lock is on a
  // file that nobody else will ever see, and the next round makes a new one.
  while (!TryLockFile()) {
  }
}

bool OutputLock::TryLockFile() {
  fd_ = open(path_.c_str(), kFlags | O_EXCL, 0666);
  const bool created = fd_ >= 0;
  if (!created && errno == EEXIST) fd_ = open(path_.c_str(), kFlags, 0666);
  if (fd_ < 0) throw IoError("create", path_.string(), errno);
  if (flock_(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (LocksUnsupported(error)) {
      TakeByExistence(created);
      return true;
    }
    const Holder holder = ReadHolder(fd_);
    close(fd_);
    fd_ = -1;
    if (error == EWOULDBLOCK) FailHeld(path_, run_, holder, "wait until it has ended");
    throw IoError("lock", path_.string(), error);
  }
  struct stat ours {};
  struct stat visible {};
  if (fstat(fd_, &ours) != 0 || stat(path_.c_str(), &visible) != 0 ||
      ours.st_ino != visible.st_ino || ours.st_dev != visible.st_dev) {
    close(fd_);
    fd_ = -1;
    return false;
  }
  WriteHolder(fd_);
  return true;
}

void OutputLock::TakeByExistence(bool created) {
  if (created) {
    WriteHolder(fd_);
    return;
  }
  const Holder holder = ReadHolder(fd_);
  close(fd_);
  fd_ = -1;
  if (!IsDead(holder)) FailHeldByExistence(path_, run_, holder);
  unlink(path_.c_str());
  fd_ = open(path_.c_str(), kFlags | O_EXCL, 0666);
  if (fd_ < 0 && errno == EEXIST) FailHeld(path_, run_, {}, "wait until it has ended");
  if (fd_ < 0) throw IoError("create", path_.string(), errno);
  WriteHolder(fd_);
}

OutputLock::~OutputLock() {
  // While the lock is still held, so that nobody locks the file in between and keeps it.
  unlink(path_.c_str());
  if (fd_ >= 0) close(fd_);
}

RunLocks::RunLocks(const std::filesystem::path& directory, const RunId& run,
                   OutputLock::Flock flock) {
  locks_.push_back(std::make_unique<OutputLock>(directory, flock, run));
  const bool is_part = run.kind == RunId::Kind::kPart;
  if (is_part) RequireFree(directory, RunId(), flock);
  for (const RunId& other : FindRuns(directory, kLockName)) {
    if (other.kind != RunId::Kind::kPart) continue;
    if (!is_part) {
      locks_.push_back(std::make_unique<OutputLock>(directory, flock, other));
    } else if (other.count != run.count) {
      RequireFree(directory, other, flock);
    }
  }
}

}  // namespace dsv3::convert

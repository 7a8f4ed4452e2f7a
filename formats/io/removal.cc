#include "formats/io/removal.h"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

// Of the file itself where it is a link.
struct statx StatusOf(const fs::path& path) {
  struct statx status {};
  constexpr unsigned kWanted = STATX_MODE | STATX_UID;
  if (::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, kWanted, &status) != 0) {
    throw IoError("look at", path.string(), errno);
  }
  return status;
}

bool IsImmutable(const struct statx& status) {
  return (status.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)) != 0;
}

}  // namespace

std::string ObstacleToRemoval(const fs::path& path) {
  const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (::faccessat(AT_FDCWD, directory.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    return errno == EROFS ? "its file system is read-only"
                          : fmt::format("{} is not writable", ShownPath(directory));
  }
  const struct statx file = StatusOf(path);
  const struct statx parent = StatusOf(directory);
  if (IsImmutable(parent)) {
    return fmt::format("{} is immutable or append-only (lsattr)", ShownPath(directory));
  }
  if (IsImmutable(file)) return "it is immutable or append-only (lsattr)";
  const uid_t user = ::geteuid();
  if ((parent.stx_mode & S_ISVTX) != 0 && user != 0 && user != parent.stx_uid &&
      user != file.stx_uid) {
    return fmt::format("it belongs to another user, and {} has the sticky bit",
                       ShownPath(directory));
  }
  return "";
}

}  // namespace dsv3::formats

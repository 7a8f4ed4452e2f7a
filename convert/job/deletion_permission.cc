#include "convert/job/deletion_permission.h"

#include <cerrno>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
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

// Why the file cannot be deleted; empty where it can.
std::string Obstacle(const fs::path& path, const fs::path& directory) {
  if (::faccessat(AT_FDCWD, directory.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    return errno == EROFS ? "its file system is read-only"
                          : fmt::format("{} is not writable", formats::ShownPath(directory));
  }
  const struct statx file = StatusOf(path);
  const struct statx parent = StatusOf(directory);
  if (IsImmutable(parent)) {
    return fmt::format("{} is immutable or append-only (lsattr)", formats::ShownPath(directory));
  }
  if (IsImmutable(file)) return "it is immutable or append-only (lsattr)";
  const uid_t user = ::geteuid();
  if ((parent.stx_mode & S_ISVTX) != 0 && user != 0 && user != parent.stx_uid &&
      user != file.stx_uid) {
    return fmt::format("it belongs to another user, and {} has the sticky bit",
                       formats::ShownPath(directory));
  }
  return "";
}

}  // namespace

void RequireDeletable(const fs::path& path) {
  const std::string obstacle = Obstacle(path, path.parent_path());
  if (obstacle.empty()) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: --delete-source-shards cannot delete it: {}; get the permission, or "
                          "leave the option out. Nothing was written",
                          formats::ShownPath(path), obstacle),
              {path.string(), ""});
}

}  // namespace dsv3::convert

#include "formats/io/dead_link.h"

#include <system_error>

#include <fmt/format.h>

#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

bool LeadsInACircle(const fs::path& path) {
  std::error_code error;
  (void)fs::status(path, error);
  return error == std::errc::too_many_symbolic_link_levels;
}

bool IsDead(const fs::path& path) {
  std::error_code error;
  return fs::is_symlink(fs::symlink_status(path, error)) &&
         (fs::status(path, error).type() == fs::file_type::not_found || LeadsInACircle(path));
}

// "a symlink to TARGET, which does not exist"; of links to links the last one's target, too.
std::string Targets(const fs::path& link) {
  constexpr int kMostLinks = 40;
  std::error_code error;
  const fs::path first = fs::read_symlink(link, error);
  fs::path last = first;
  fs::path place = (link.parent_path() / first).lexically_normal();
  for (int links = 1; links < kMostLinks && fs::is_symlink(fs::symlink_status(place, error));
       ++links) {
    last = fs::read_symlink(place, error);
    place = (place.parent_path() / last).lexically_normal();
  }
  const std::string by_way = last == first ? "" : fmt::format(" and by it to {}", ShownPath(last));
  return fmt::format("a symlink to {}{}, which does not exist", ShownPath(first), by_way);
}

}  // namespace

std::string DeadLinkProblem(const fs::path& path) {
  if (IsDead(path)) {
    return LeadsInACircle(path) ? "a dead link, which leads in a circle"
                                : "a dead link, " + Targets(path);
  }
  for (fs::path parent = path.parent_path(); !parent.empty(); parent = parent.parent_path()) {
    if (IsDead(parent)) {
      return fmt::format("in {}, which is a dead link, {}", ShownPath(parent), Targets(parent));
    }
    if (parent == parent.parent_path()) break;
  }
  return "";
}

}  // namespace dsv3::formats

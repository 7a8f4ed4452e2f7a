#include "formats/given_paths.h"

#include <map>
#include <system_error>

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

// "/models/v3/" names what "/models/v3" does.
fs::path WithoutSlash(const fs::path& path) {
  return path.has_filename() || !path.has_relative_path() ? path : path.parent_path();
}

// Path from the root → the path as it was given.
std::map<fs::path, fs::path>& GivenPaths() {
  static std::map<fs::path, fs::path> paths;
  return paths;
}

}  // namespace

void NoteGivenPath(const fs::path& path) {
  std::error_code error;
  const fs::path absolute = path.is_absolute() ? fs::path() : fs::absolute(path, error);
  if (path.empty() || absolute.empty() || error) return;
  const fs::path given = WithoutSlash(path);
  const fs::path normal = WithoutSlash(absolute.lexically_normal());
  GivenPaths()[normal] = given;
  // Messages about a file also name its directory.
  if (given.has_parent_path()) GivenPaths().emplace(normal.parent_path(), given.parent_path());
}

fs::path AsGiven(const fs::path& path) {
  if (!path.is_absolute()) return path;
  const fs::path normal = WithoutSlash(path.lexically_normal());
  for (fs::path around = normal; around.has_relative_path(); around = around.parent_path()) {
    const auto given = GivenPaths().find(around);
    if (given == GivenPaths().end()) continue;
    const fs::path rest = normal.lexically_relative(around);
    if (rest == ".") return given->second;
    return given->second == "." ? rest : given->second / rest;
  }
  return path;
}

}  // namespace dsv3::formats

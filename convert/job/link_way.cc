#include "convert/job/link_way.h"

#include <system_error>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

fs::path AtRealDirectory(const fs::path& path) {
  std::error_code error;
  const fs::path directory = fs::canonical(path.parent_path(), error);
  if (error) throw IoError("find", path.string(), error.value());
  return directory / path.filename();
}

}  // namespace

std::vector<fs::path> LinkWay(const fs::path& path) {
  std::vector<fs::path> way = {AtRealDirectory(path)};
  // The file exists, so the links lead to an end and not in a circle.
  for (std::error_code error; fs::is_symlink(fs::symlink_status(way.back(), error));) {
    const fs::path target = way.back().parent_path() / fs::read_symlink(way.back(), error);
    if (error) throw IoError("read the link", way.back().string(), error.value());
    way.push_back(AtRealDirectory(target));
  }
  return way;
}

}  // namespace dsv3::convert

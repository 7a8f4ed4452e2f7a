#include "tests/convert/support/conversion.h"

#include <algorithm>

#include <fmt/format.h>
#include <sys/stat.h>

namespace dsv3::testing {

namespace fs = std::filesystem;

std::map<std::string, fs::file_time_type> FileTimes(const fs::path& directory) {
  std::map<std::string, fs::file_time_type> times;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    times[entry.path().lexically_relative(directory).string()] = entry.last_write_time();
  }
  return times;
}

void RestoreFileTimes(const fs::path& directory,
                      const std::map<std::string, fs::file_time_type>& times) {
  for (const auto& [name, time] : times) {
    if (fs::exists(directory / name)) fs::last_write_time(directory / name, time);
  }
}

std::string DetailedListing(const fs::path& directory) {
  std::vector<std::string> lines;
  const auto add = [&](const fs::path& path) {
    struct stat status {};
    lstat(path.c_str(), &status);
    lines.push_back(fmt::format(
        "{} {:o} {} {}.{:09} {}\n", path.lexically_relative(directory).string(), status.st_mode,
        status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ino));
  };
  add(directory);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    add(entry.path());
  }
  std::sort(lines.begin(), lines.end());
  std::string listing;
  for (const std::string& line : lines) listing += line;
  return listing;
}

}  // namespace dsv3::testing

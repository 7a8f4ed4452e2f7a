#include "formats/io/new_directories.h"

#include <system_error>

#include "formats/error.h"

namespace dsv3::formats {

void RemoveEmptyDirectories(FileSystem& fs, const std::vector<std::filesystem::path>& directories) {
  for (const std::filesystem::path& path : directories) {
    std::error_code error;
    if (!std::filesystem::is_empty(path, error) || error) return;
    try {
      fs.RemoveDirectory(path);
    } catch (const Error&) {
      return;
    }
  }
}

NewDirectories::NewDirectories(FileSystem& fs, const std::filesystem::path& path)
    : fs_(fs), made_(CreateDirectories(fs, path)) {}

NewDirectories::~NewDirectories() { RemoveEmptyDirectories(fs_, made_); }

}  // namespace dsv3::formats

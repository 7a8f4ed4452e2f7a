#pragma once

#include <filesystem>
#include <vector>

#include "formats/io/file_system.h"

namespace dsv3::formats {

// Removes these directories, the innermost first, up to one that is not empty or cannot be removed.
void RemoveEmptyDirectories(FileSystem& fs, const std::vector<std::filesystem::path>& directories);

// Directories for files to come: where none came, none is left.
class NewDirectories {
 public:
  // Makes `path` and its parents as CreateDirectories does. `fs` must outlive the object. Throws
  // Error: kUsage where something on the way is not a directory, kIo.
  NewDirectories(FileSystem& fs, const std::filesystem::path& path);
  // Removes those that were made and are empty.
  ~NewDirectories();
  NewDirectories(const NewDirectories&) = delete;
  NewDirectories& operator=(const NewDirectories&) = delete;

 private:
  FileSystem& fs_;
  std::vector<std::filesystem::path> made_;  // the innermost first
};

}  // namespace dsv3::formats

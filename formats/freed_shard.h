#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::formats {

class InputFile;

// A file of a checkpoint that is no longer on the disk. The bytes that opening the checkpoint reads
// of it were saved before it went.
struct FreedShard {
  struct SavedBytes {
    std::uint64_t offset = 0;  // in the file
    std::string bytes = {};
  };
  std::string name;
  std::uint64_t bytes = 0;  // of the whole file
  std::int64_t mtime_ns = 0;
  std::vector<SavedBytes> saved = {};
};

// The one of this name, unless `path`, where the file was, leads to a file.
const FreedShard* FindFreed(const std::vector<FreedShard>& freed, std::string_view name,
                            const std::filesystem::path& path);

// Opens the file at `path` or, where it was freed, a copy in memory that has its size, its time and
// the saved bytes at their places; the bytes between them are zeros and take no memory. Throws
// Error as InputFile does, and kIo where the system has no memory for the copy.
InputFile OpenOrFreed(const std::filesystem::path& path, const std::string& name,
                      const std::vector<FreedShard>& freed);

}  // namespace dsv3::formats

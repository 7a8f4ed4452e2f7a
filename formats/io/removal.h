#pragma once

#include <filesystem>
#include <string>

namespace dsv3::formats {

// Why this process may not remove or replace the file or link, as a clause ("it is immutable …");
// empty where it may: its directory is not writable or on a read-only file system, the directory's
// sticky bit keeps files of other owners, or one of the two is immutable. Looks only. Throws Error
// (kIo) where there is no such file. Thread-safe.
std::string ObstacleToRemoval(const std::filesystem::path& path);

}  // namespace dsv3::formats

#pragma once

#include <filesystem>

namespace dsv3::convert {

// Throws Error (kIo) where this process may not delete the file or link: its directory is not
// writable or on a read-only file system, the directory's sticky bit keeps files of other owners,
// or one of the two is immutable. Nothing is deleted.
void RequireDeletable(const std::filesystem::path& path);

}  // namespace dsv3::convert

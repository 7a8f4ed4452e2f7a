#pragma once

#include <filesystem>
#include <vector>

namespace dsv3::convert {

// A path and, where it is a symbolic link, what lies on the way to its end: other links, and the
// file itself as the last one. No directory of these paths is a link. The file must exist. Throws
// Error (kIo).
std::vector<std::filesystem::path> LinkWay(const std::filesystem::path& path);

}  // namespace dsv3::convert

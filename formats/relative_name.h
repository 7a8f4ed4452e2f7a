#pragma once

#include <string_view>

// The names by which lists, indexes and headers name files below a directory: relative, '/' between
// components.
namespace dsv3::formats {

// Why no file below a directory has this name ("which is an absolute path", "which leads out of the
// directory by '..'"); empty when one may have it.
std::string_view OutsidePath(std::string_view name);

// The same, and why no checkpoint may give a file this name, which another system would take for
// another place: backslashes, drive letters and control characters. Empty when it may.
std::string_view UnsafePath(std::string_view name);

}  // namespace dsv3::formats

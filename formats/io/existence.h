#pragma once

#include <filesystem>

namespace dsv3::formats {

// Whether `path` leads to something, links followed: a dead link leads to nothing. False also where
// the directories on the way do not let this be found out.
bool Exists(const std::filesystem::path& path);

// Whether there is an entry of this name, which may be a dead link. False as above.
bool EntryExists(const std::filesystem::path& path);

}  // namespace dsv3::formats

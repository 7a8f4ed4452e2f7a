#pragma once

#include <filesystem>
#include <string>

namespace dsv3::formats {

// Where `path`, or a directory on the way to it, is a symbolic link whose target does not exist:
// "a dead link, a symlink to ../blobs/12ab, which does not exist", with the first link's own path
// where it is not `path`; or "a dead link, which leads in a circle". Empty for every other path.
std::string DeadLinkProblem(const std::filesystem::path& path);

}  // namespace dsv3::formats

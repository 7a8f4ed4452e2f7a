#pragma once

#include <filesystem>

// The paths of a call as the user wrote them. Code knows a directory by its path from the root;
// messages show it as it was given.
namespace dsv3::formats {

// Has AsGiven know `path` and the directory that it lies in. Does nothing for a path from the root
// or an empty one. Call it before other threads run.
void NoteGivenPath(const std::filesystem::path& path);

// The given path that leads to `path` (or the longest that leads to a directory around it, and the
// rest); `path` itself where there is none. Links are not followed. Thread-safe.
std::filesystem::path AsGiven(const std::filesystem::path& path);

}  // namespace dsv3::formats

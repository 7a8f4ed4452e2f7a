#pragma once

#include <cstdint>
#include <filesystem>

namespace dsv3::formats {

// Whether bytes [begin, end) of a file are in the page cache as a whole, as Linux's cachestat says
// (6.5 or newer, and not for files of others); false where nothing is known. Unlike a read with
// RWF_NOWAIT it starts no read-ahead, so asking costs nothing where the answer is no.
bool IsInPageCache(int fd, std::uint64_t begin, std::uint64_t end);
bool IsInPageCache(const std::filesystem::path& path, std::uint64_t begin, std::uint64_t end);

}  // namespace dsv3::formats

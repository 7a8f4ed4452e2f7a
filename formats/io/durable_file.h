#pragma once

#include <filesystem>
#include <string_view>

#include "formats/io/file_system.h"

namespace dsv3::formats {

// Replaces `path`, or makes it, so that at every moment there is the old file or the whole new one:
// PATH.partial, fsync, rename, fsync of the directory. For files that fit into memory. Throws Error
// (kIo) and then leaves no PATH.partial where it can be removed.
void WriteFileDurably(FileSystem& fs, const std::filesystem::path& path, std::string_view content);

// Tries, before hours of work, whether WriteFileDurably could write `path`: makes PATH.partial and
// removes it. Throws Error: kUsage where there is a directory of that name, kIo where no file can
// be made there.
void RequireWritable(FileSystem& fs, const std::filesystem::path& path);

}  // namespace dsv3::formats

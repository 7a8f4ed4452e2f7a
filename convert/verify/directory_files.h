#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dsv3::convert {

// What lies in a model directory, as checksums see it.
struct DirectoryFile {
  enum class Kind {
    kFile,           // a regular file, or a symlink to one
    kDeadLink,       // a symlink to nothing, or in a circle
    kDirectoryLink,  // a symlink to a directory; not followed
    kSpecial,        // a FIFO, socket or device
  };
  std::string name;  // relative, '/' between components; any bytes
  std::filesystem::path path;
  Kind kind = Kind::kFile;
  std::uint64_t bytes = 0;  // kFile
};

// "a dead link, a symlink that leads nowhere" and so on.
std::string_view DescribeKind(DirectoryFile::Kind kind);

// Everything below `directory` but directories, sorted by name. Left out, in the directory itself:
// SHA256SUMS, checkpoint.manifest.json and model.sig (and what an interrupted run left of writing
// them), .git, and .cache/huggingface. Throws Error kIo.
std::vector<DirectoryFile> ListDirectory(const std::filesystem::path& directory);

// Which directory a path to check means: a directory as it is, a hub cache ("models--org--name") by
// its snapshot. Throws Error: kBadInput for what does not exist, kUsage for a file.
std::filesystem::path LocateDirectory(const std::filesystem::path& path);

}  // namespace dsv3::convert

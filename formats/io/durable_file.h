#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "formats/io/file_system.h"

namespace dsv3::formats {

// A file in the making: PATH.partial until Commit names it, so that at every moment there is the
// old file, or none, or the whole new one. Used by one thread at a time.
class DurableFile {
 public:
  // Makes PATH.partial; `expected_bytes` as for FileSystem::Create. `fs` must outlive this object.
  // Throws Error (kIo).
  DurableFile(FileSystem& fs, std::filesystem::path path, std::uint64_t expected_bytes);
  // Removes PATH.partial, where it can be removed, unless Commit gave it its name.
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  // To be written before Commit.
  OutputFile& file() { return *file_; }

  // fsync, rename, fsync of the directory; to be called once. Throws Error (kIo).
  void Commit();

 private:
  FileSystem& fs_;
  const std::filesystem::path path_;
  const std::filesystem::path partial_;
  std::unique_ptr<OutputFile> file_;
  bool named_ = false;
};

// Replaces `path`, or makes it, so that at every moment there is the old file or the whole new one:
// PATH.partial, fsync, rename, fsync of the directory. For files that fit into memory. Throws Error
// (kIo) and then leaves no PATH.partial where it can be removed.
void WriteFileDurably(FileSystem& fs, const std::filesystem::path& path, std::string_view content);

// Tries, before hours of work, whether WriteFileDurably could write `path`: makes PATH.partial and
// removes it. Throws Error: kUsage where there is no directory for it, or a directory, a device or
// a pipe of that name, kIo where no file can be made there, also because the disk is full, or the
// one that is there cannot be replaced.
void RequireWritable(FileSystem& fs, const std::filesystem::path& path);

// Where a file goes that a user names: through links, to the file that they lead to, whether it is
// there or not. Throws Error (kUsage) where links form a loop.
std::filesystem::path FollowLinks(std::filesystem::path path);

// FollowLinks of a path that RequireWritable has tried.
std::filesystem::path WritablePlace(FileSystem& fs, const std::filesystem::path& path);

}  // namespace dsv3::formats

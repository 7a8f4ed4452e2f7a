#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace dsv3::formats {

// What does not fit in memory: a file without a name on the disk of a directory, which goes with
// the instance, and with the process however that ends. It changes nothing that anybody sees, so it
// is no part of FileSystem. One instance is used by one thread at a time. All throw Error (kIo).
class ScratchFile {
 public:
  // `directory` exists.
  explicit ScratchFile(const std::filesystem::path& directory);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  std::uint64_t bytes() const { return bytes_; }
  void Append(std::span<const std::byte> data);
  // Precondition: the file has these bytes.
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const;
  void Clear();

 private:
  const std::string directory_;
  int fd_ = -1;
  std::uint64_t bytes_ = 0;
};

}  // namespace dsv3::formats

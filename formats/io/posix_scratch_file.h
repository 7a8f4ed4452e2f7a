#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "formats/io/file_system.h"
#include "formats/io/posix.h"

namespace dsv3::formats {

// A scratch file on a real disk. Private to formats/io.
class PosixScratchFile final : public ScratchFile {
 public:
  explicit PosixScratchFile(const std::filesystem::path& directory);

  std::uint64_t bytes() const override { return bytes_; }
  void Append(std::span<const std::byte> data) override;
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override;
  void Clear() override;

 private:
  const std::string directory_;
  const UniqueFd fd_;
  std::uint64_t bytes_ = 0;
};

}  // namespace dsv3::formats

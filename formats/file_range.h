#pragma once

#include <cstdint>

namespace dsv3::formats {

// Bytes [offset, offset + bytes) of a file.
struct FileRange {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;

  bool operator==(const FileRange&) const = default;
};

}  // namespace dsv3::formats

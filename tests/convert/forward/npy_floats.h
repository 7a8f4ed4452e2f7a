#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/files.h"

namespace dsv3::testing {

// The values of a .npy file of floats, version 1.0.
inline std::vector<float> NpyFloats(const std::filesystem::path& file) {
  const std::string bytes = ReadFile(file);
  const std::size_t header = 10 + static_cast<unsigned char>(bytes[8]) +
                             256 * static_cast<std::size_t>(static_cast<unsigned char>(bytes[9]));
  std::vector<float> values((bytes.size() - header) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + header, values.size() * sizeof(float));
  return values;
}

}  // namespace dsv3::testing

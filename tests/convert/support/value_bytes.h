#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "quant/codec.h"

// Values as the bytes of a tensor of this dtype, little-endian, rounded to nearest even.
namespace dsv3::testing {

inline std::string F32Bytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline std::string BF16Bytes(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    const std::uint16_t bits = quant::EncodeBF16(value);
    bytes += static_cast<char>(bits & 0xFF);
    bytes += static_cast<char>(bits >> 8);
  }
  return bytes;
}

}  // namespace dsv3::testing

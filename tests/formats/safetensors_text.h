#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "formats/safetensors.h"

namespace dsv3::testing {

// A file with this JSON as its header, then `data_bytes` zeros.
inline std::string SafetensorsFile(std::string_view json, std::size_t data_bytes) {
  const std::uint64_t length = json.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  file += json;
  file.append(data_bytes, '\0');
  return file;
}

inline formats::SafetensorsHeader Parse(std::string_view file) {
  return formats::ParseSafetensorsHeader(std::as_bytes(std::span(file)), file.size(),
                                         "m.safetensors");
}

// One entry of a header.
inline std::string Entry(std::string_view name, std::string_view dtype, std::string_view shape,
                         std::uint64_t begin, std::uint64_t end) {
  return "\"" + std::string(name) + "\":{\"dtype\":\"" + std::string(dtype) +
         "\",\"shape\":" + std::string(shape) + ",\"data_offsets\":[" + std::to_string(begin) +
         "," + std::to_string(end) + "]}";
}

}  // namespace dsv3::testing

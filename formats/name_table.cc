#include "formats/name_table.h"

#include <random>

#include <xxhash.h>

namespace dsv3::formats {

std::uint32_t HashName(std::string_view name) {
  static const std::uint64_t seed = std::random_device{}();
  return static_cast<std::uint32_t>(XXH3_64bits_withSeed(name.data(), name.size(), seed));
}

}  // namespace dsv3::formats

#include "formats/hash/crc32.h"

#include <array>
#include <bit>
#include <cstring>

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "eight bytes are taken as one number");

constexpr std::size_t kStep = 8;

// kTables[k][b] is the CRC of byte b followed by k zeros: eight bytes are looked up side by side.
constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, kStep> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB8'8320U : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < kStep; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8 ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}();

}  // namespace

std::uint32_t Crc32(std::span<const std::byte> data, std::uint32_t crc) {
  crc = ~crc;
  while (data.size() >= kStep) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data(), sizeof word);
    word ^= crc;
    crc = 0;
    for (std::size_t k = 0; k < kStep; ++k) {
      crc ^= kTables[kStep - 1 - k][word >> (8 * k) & 0xFF];
    }
    data = data.subspan(kStep);
  }
  for (const std::byte byte : data) {
    crc = crc >> 8 ^ kTables[0][(crc ^ static_cast<std::uint32_t>(byte)) & 0xFF];
  }
  return ~crc;
}

}  // namespace dsv3::formats

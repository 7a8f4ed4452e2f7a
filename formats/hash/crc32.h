#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dsv3::formats {

// CRC-32 as in zip archives (polynomial 0x04C11DB7, reflected). `crc` is that of the bytes before,
// 0 at the beginning.
std::uint32_t Crc32(std::span<const std::byte> data, std::uint32_t crc = 0);

// For CRCs of pieces that come in any order: of bytes A followed by bytes B,
// Crc32(AB) = Crc32Before(Crc32(A), B.size()) ^ Crc32(B).
std::uint32_t Crc32Before(std::uint32_t crc, std::uint64_t bytes_behind);

}  // namespace dsv3::formats

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <xxhash.h>

// Parts of Zstandard's frames (RFC 8878, 3.1.1) for what writes them without libzstd.
namespace dsv3::formats {

inline constexpr std::uint32_t kZstdMagic = 0xFD2FB528;
inline constexpr std::size_t kZstdMagicBytes = 4;
inline constexpr std::size_t kZstdBlockBytes = std::size_t{1} << 17;  // the most that a block holds
inline constexpr std::size_t kZstdBlockHeadBytes = 3;

enum class ZstdBlock : unsigned { kRaw = 0, kRepeated = 1, kCompressed = 2 };

// Appends the lowest bytes of a number to a frame.
inline void PutZstd(std::uint64_t number, std::size_t bytes, std::byte*& out) {
  std::memcpy(out, &number, bytes);
  out += bytes;
}

// Appends the head of a frame whose window is its content, with the content's size and a checksum.
// Precondition: the content has less than 4 GiB.
inline void PutZstdFrameHead(std::size_t content_bytes, std::byte*& out) {
  constexpr unsigned kSizeOf4Bytes = 0x80;
  constexpr unsigned kSingleSegment = 0x20;
  constexpr unsigned kHasChecksum = 0x04;
  PutZstd(kZstdMagic, kZstdMagicBytes, out);
  PutZstd(kSizeOf4Bytes | kSingleSegment | kHasChecksum, 1, out);
  PutZstd(content_bytes, 4, out);
}

// Appends the head of a block. `bytes` are those that follow, of kRepeated those that it makes.
inline void PutZstdBlockHead(ZstdBlock kind, std::size_t bytes, bool last, std::byte*& out) {
  PutZstd((last ? 1U : 0U) | static_cast<unsigned>(kind) << 1 | bytes << 3, kZstdBlockHeadBytes,
          out);
}

// Appends a raw block.
inline void PutZstdRawBlock(std::span<const std::byte> content, bool last, std::byte*& out) {
  PutZstdBlockHead(ZstdBlock::kRaw, content.size(), last, out);
  if (!content.empty()) std::memcpy(out, content.data(), content.size());
  out += content.size();
}

// Appends the checksum, which ends the frame.
inline void PutZstdChecksum(std::span<const std::byte> content, std::byte*& out) {
  PutZstd(XXH64(content.data(), content.size(), 0), 4, out);
}

}  // namespace dsv3::formats

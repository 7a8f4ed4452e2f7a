#pragma once

#include <bit>
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
inline constexpr std::size_t kZstdFrameHeadBytes = kZstdMagicBytes + 1 + 4;  // as written below
inline constexpr std::size_t kZstdChecksumBytes = 4;

enum class ZstdBlock : unsigned { kRaw = 0, kRepeated = 1, kCompressed = 2 };

// Literals of a compressed block that are Huffman codes, of a code that is described there or in a
// block before (3.1.1.3.1).
enum class ZstdLiterals : unsigned { kWithCode = 2, kWithCodeOfBefore = 3 };

// Their format is 0 for one stream, 1 to 3 for four streams. The head has 2 bits of ZstdLiterals, 2
// of the format, and two sizes of so many bits: of the literals and of their codes.
constexpr unsigned ZstdLiteralsSizeBits(unsigned format) {
  return format < 2 ? 10 : format == 2 ? 14 : 18;
}
constexpr std::size_t ZstdLiteralsHeadBytes(unsigned format) {
  return (4 + 2 * std::size_t{ZstdLiteralsSizeBits(format)} + 7) / 8;
}

// Four streams have their sizes before them, but for the last one's, and symbols in equal numbers,
// of which the last may have fewer.
inline constexpr std::size_t kZstdJumpTableBytes = 6;
constexpr std::size_t ZstdSymbolsOfStream(std::size_t symbols) { return (symbols + 3) / 4; }

// The bits of a stream that is read from its end on: those below the highest one of its last byte,
// which marks the end. 0 where there is no mark.
inline std::size_t ZstdStreamBits(std::span<const std::byte> stream) {
  if (stream.empty() || stream.back() == std::byte{0}) return 0;
  const auto last = std::to_integer<std::uint8_t>(stream.back());
  return 8 * (stream.size() - 1) + static_cast<std::size_t>(std::bit_width(last)) - 1;
}

// The lowest bits of the content's XXH64, which end a frame.
inline std::uint32_t ZstdChecksum(std::span<const std::byte> content) {
  return static_cast<std::uint32_t>(XXH64(content.data(), content.size(), 0));
}

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
  PutZstd(ZstdChecksum(content), kZstdChecksumBytes, out);
}

}  // namespace dsv3::formats

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The seek table of the Zstandard seekable format 0.1: the last frame of a stream of frames, a
// skippable one (magic 0x184D2A5E) that gives the sizes of all frames before it:
//   for each frame  u32 bytes of the frame, u32 bytes of its content (0 for a skippable frame)
//   footer          u32 number of frames, u8 flags (0: no checksums), u32 0x8F92EAB1
// All numbers are little-endian.
namespace dsv3::formats {

// A frame of the stream.
struct SeekEntry {
  std::uint32_t frame_bytes = 0;
  std::uint32_t content_bytes = 0;
  friend bool operator==(const SeekEntry&, const SeekEntry&) = default;
};

inline constexpr std::size_t kSeekFooterBytes = 9;
inline constexpr std::uint32_t kMaxSeekEntries = 0x8000000;  // of the format

// Bytes of the table of so many frames.
constexpr std::uint64_t SeekTableBytes(std::uint64_t entries) { return 8 + 8 * entries + 9; }

// The table. Precondition: at most kMaxSeekEntries entries.
std::string SerializeSeekTable(std::span<const SeekEntry> entries);

// What is wrong with a stream is returned as a text that follows a subject, such as "is not a
// seekable stream: its last bytes are no seek table"; empty when all is well.

// How many bytes the table has by the last kSeekFooterBytes bytes of a stream of `stream_bytes`: at
// most stream_bytes, so the table can be read into memory.
std::string_view SeekTableBytesOf(std::span<const std::byte> footer, std::uint64_t stream_bytes,
                                  std::uint64_t& table_bytes);

// Reads a table. The frames must fill the rest of the stream, no frame may be empty, and checksums
// and flags must be absent, as in the tables that SerializeSeekTable makes.
std::string_view ParseSeekTable(std::span<const std::byte> table, std::uint64_t stream_bytes,
                                std::vector<SeekEntry>& entries);

}  // namespace dsv3::formats

#include "formats/seek_table.h"

#include <cstring>

#include "formats/zstd_frame.h"

namespace dsv3::formats {
namespace {

constexpr std::uint32_t kSeekTableMagic = 0x184D2A5E;
constexpr std::uint32_t kFooterMagic = 0x8F92EAB1;
constexpr std::size_t kEntryBytes = 8;

template <typename T>
void Append(std::string& text, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  text.append(bytes, sizeof value);
}

std::uint32_t U32At(std::span<const std::byte> bytes, std::size_t offset) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace

std::string SerializeSeekTable(std::span<const SeekEntry> entries) {
  const auto content = static_cast<std::uint32_t>(entries.size() * kEntryBytes + kSeekFooterBytes);
  std::string text;
  text.reserve(kSkippableHeadBytes + content);
  Append(text, kSeekTableMagic);
  Append(text, content);
  for (const SeekEntry& entry : entries) {
    Append(text, entry.frame_bytes);
    Append(text, entry.content_bytes);
  }
  Append(text, static_cast<std::uint32_t>(entries.size()));
  text.push_back('\0');
  Append(text, kFooterMagic);
  return text;
}

std::string_view SeekTableBytesOf(std::span<const std::byte> footer, std::uint64_t stream_bytes,
                                  std::uint64_t& table_bytes) {
  if (footer.size() != kSeekFooterBytes || U32At(footer, 5) != kFooterMagic) {
    return "its last bytes are not those of a seek table";
  }
  if (footer[4] != std::byte{0}) {
    return "its seek table has flags or checksums, which this version does not know";
  }
  const std::uint32_t entries = U32At(footer, 0);
  if (entries > kMaxSeekEntries) return "its seek table names more frames than the format allows";
  table_bytes = SeekTableBytes(entries);
  if (table_bytes > stream_bytes) return "its seek table is longer than the stream";
  return "";
}

std::string_view ParseSeekTable(std::span<const std::byte> table, std::uint64_t stream_bytes,
                                std::vector<SeekEntry>& entries) {
  entries.clear();
  const std::string_view fault = "its seek table does not begin as one";
  std::uint64_t table_bytes = 0;
  if (table.size() < SeekTableBytes(0)) return fault;
  const std::string_view footer =
      SeekTableBytesOf(table.last(kSeekFooterBytes), stream_bytes, table_bytes);
  if (!footer.empty()) return footer;
  if (table_bytes != table.size() || !SkippableContent(kSeekTableMagic, table)) return fault;
  std::uint64_t left = stream_bytes - table_bytes;
  const std::size_t count = (table.size() - SeekTableBytes(0)) / kEntryBytes;
  entries.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t offset = kSkippableHeadBytes + i * kEntryBytes;
    const SeekEntry entry{.frame_bytes = U32At(table, offset),
                          .content_bytes = U32At(table, offset + 4)};
    if (entry.frame_bytes == 0) return "its seek table names a frame without bytes";
    if (entry.frame_bytes > left) return "its seek table names more bytes than the stream has";
    left -= entry.frame_bytes;
    entries.push_back(entry);
  }
  return left == 0 ? "" : "its seek table names fewer bytes than the stream has";
}

}  // namespace dsv3::formats

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// Composes zip archives as torch.save writes them: entries as they are, local headers without sizes
// and padded so that contents begin at multiples of 64, a data descriptor behind each, zip64 end
// records. Each number can be made wrong.
namespace dsv3::testing {

struct ZipItem {
  std::string name;
  std::string content;
  std::uint32_t crc = 0;  // in the directory
  std::uint16_t flags = 0x0808;
  std::uint16_t method = 0;
  std::string extra = {};                           // in the directory
  std::optional<std::uint32_t> stored_bytes = {};   // in the directory, instead of the true size
  std::optional<std::uint32_t> content_bytes = {};  // in the directory
  std::optional<std::uint32_t> header = {};         // in the directory
  std::optional<std::uint16_t> local_extra_bytes = {};
  std::optional<std::string> local_name = {};
  std::uint16_t volume = 0;
};

struct ZipShape {
  bool has_zip64_end = true;
  std::string comment = {};
  std::optional<std::uint64_t> num_entries = {};
  std::optional<std::uint64_t> directory_bytes = {};
  std::optional<std::uint64_t> directory = {};
  std::optional<std::uint64_t> end64 = {};             // where the locator says that it lies
  std::optional<std::uint16_t> narrow_entries = {};    // in the end record alone
  std::optional<std::uint64_t> narrow_directory = {};  // the same
  std::uint16_t volume = 0;
};

inline void Put(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i, value >>= 8) out += static_cast<char>(value & 0xFF);
}

inline std::string MakeZip(const std::vector<ZipItem>& items, const ZipShape& shape = {}) {
  std::string out;
  std::string directory;
  for (const ZipItem& item : items) {
    const std::size_t header = out.size();
    const std::string& local = item.local_name ? *item.local_name : item.name;
    const std::size_t padding = 4 + (64 - (header + 30 + local.size() + 4) % 64) % 64;
    out += "PK\x03\x04";
    Put(out, 0, 2);
    Put(out, item.flags, 2);
    Put(out, item.method, 2);
    Put(out, 0, 16);
    Put(out, local.size(), 2);
    Put(out, item.local_extra_bytes.value_or(static_cast<std::uint16_t>(padding)), 2);
    out += local + "FB";
    Put(out, padding - 4, 2);
    out += std::string(padding - 4, 'Z') + item.content + "PK\x07\x08";
    Put(out, item.crc, 4);
    Put(out, item.content.size(), 4);
    Put(out, item.content.size(), 4);

    directory += "PK\x01\x02";
    Put(directory, 0, 4);
    Put(directory, item.flags, 2);
    Put(directory, item.method, 2);
    Put(directory, 0, 4);
    Put(directory, item.crc, 4);
    const auto bytes = static_cast<std::uint32_t>(item.content.size());
    Put(directory, item.stored_bytes.value_or(bytes), 4);
    Put(directory, item.content_bytes.value_or(bytes), 4);
    Put(directory, item.name.size(), 2);
    Put(directory, item.extra.size(), 2);
    Put(directory, 0, 2);
    Put(directory, item.volume, 2);
    Put(directory, 0, 6);
    Put(directory, item.header.value_or(static_cast<std::uint32_t>(header)), 4);
    directory += item.name + item.extra;
  }
  const std::uint64_t place = shape.directory.value_or(out.size());
  const std::uint64_t bytes = shape.directory_bytes.value_or(directory.size());
  const std::uint64_t count = shape.num_entries.value_or(items.size());
  out += directory;
  if (shape.has_zip64_end) {
    const std::size_t end64 = out.size();
    out += "PK\x06\x06";
    Put(out, 44, 8);
    Put(out, 0, 4);
    Put(out, 0, 8);
    Put(out, count, 8);
    Put(out, count, 8);
    Put(out, bytes, 8);
    Put(out, place, 8);
    out += "PK\x06\x07";
    Put(out, 0, 4);
    Put(out, shape.end64.value_or(end64), 8);
    Put(out, 1, 4);
  }
  const auto narrow = [](std::uint64_t value, std::uint64_t most) {
    return value < most ? value : most;
  };
  const std::uint64_t entries = shape.narrow_entries.value_or(narrow(count, 0xFFFF));
  out += "PK\x05\x06";
  Put(out, shape.volume, 2);
  Put(out, shape.volume, 2);
  Put(out, entries, 2);
  Put(out, entries, 2);
  Put(out, narrow(bytes, 0xFFFFFFFF), 4);
  Put(out, shape.narrow_directory.value_or(narrow(place, 0xFFFFFFFF)), 4);
  Put(out, shape.comment.size(), 2);
  return out + shape.comment;
}

}  // namespace dsv3::testing

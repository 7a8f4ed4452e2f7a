#include "formats/zip_directory.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/zip_end.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kCentralSignature = "PK\x01\x02";
constexpr std::size_t kLocalBytes = 30;
constexpr std::size_t kCentralBytes = 46;

// Reads the records of a central directory.
class EntryReader {
 public:
  EntryReader(const InputFile& file, FileRange archive, std::span<const std::byte> text,
              std::uint64_t directory)
      : file_(file), archive_(archive), text_(text), directory_(directory) {}

  std::vector<ZipEntry> Read(std::uint64_t num_entries) {
    std::vector<ZipEntry> entries;
    entries.reserve(num_entries);
    for (std::uint64_t i = 0; i < num_entries; ++i) entries.push_back(ReadEntry(i));
    if (at_ != text_.size()) {
      FailZip(file_, archive_,
              fmt::format("its directory has {}, but the records of its entries ({}) have {}",
                          ExactBytes(text_.size()), num_entries, ExactBytes(at_)));
    }
    return entries;
  }

 private:
  ZipEntry ReadEntry(std::uint64_t index) {
    const std::span<const std::byte> rest = text_.subspan(at_);
    if (rest.size() < kCentralBytes || !HasZipSignature(rest, 0, kCentralSignature)) {
      FailZip(file_, archive_,
              fmt::format("entry {} of its directory is not a record of a directory", index));
    }
    const std::size_t name_bytes = Load16(rest, 28);
    const std::size_t extra_bytes = Load16(rest, 30);
    const std::size_t record_bytes = kCentralBytes + name_bytes + extra_bytes + Load16(rest, 32);
    if (rest.size() < record_bytes) {
      FailZip(file_, archive_,
              fmt::format("entry {} of its directory does not end in the directory", index));
    }
    at_ += record_bytes;
    ZipEntry entry{.name = ZipText(rest.subspan(kCentralBytes, name_bytes)),
                   .header = Load32(rest, 42),
                   .end = 0,
                   .bytes = Load32(rest, 24),
                   .crc = Load32(rest, 16),
                   .method = 0};
    std::uint64_t stored_bytes = Load32(rest, 20);
    ReadZip64(rest.subspan(kCentralBytes + name_bytes, extra_bytes), entry, stored_bytes);
    constexpr unsigned kEncryptedFlags = 1U << 0 | 1U << 6 | 1U << 13;
    if ((Load16(rest, 8) & kEncryptedFlags) != 0) {
      FailEntry(entry, "is encrypted", "decrypt the archive, or save the checkpoint again");
    }
    entry.method = Load16(rest, 10);
    // What is compressed takes another number of bytes in the file; nothing of it is read.
    if (entry.method != 0) entry.bytes = stored_bytes;
    if (stored_bytes != entry.bytes) {
      FailEntry(entry, fmt::format("is stored in {}, but its content has {}",
                                   ExactBytes(stored_bytes), ExactBytes(entry.bytes)));
    }
    if (Load16(rest, 34) != 0) FailEntry(entry, "lies in another volume of the archive");
    CheckPlace(entry);
    return entry;
  }

  // Fields of 32 bits that are full stand in the zip64 field, one after the other.
  void ReadZip64(std::span<const std::byte> extra, ZipEntry& entry, std::uint64_t& stored_bytes) {
    std::span<const std::byte> wide;
    while (!extra.empty()) {
      if (extra.size() < 4 || extra.size() - 4 < Load16(extra, 2)) {
        FailEntry(entry, "has an extra field that does not end in its record");
      }
      const std::size_t field_bytes = Load16(extra, 2);
      constexpr std::uint16_t kZip64 = 1;
      if (Load16(extra, 0) == kZip64 && wide.empty()) wide = extra.subspan(4, field_bytes);
      extra = extra.subspan(4 + field_bytes);
    }
    for (std::uint64_t* value : {&entry.bytes, &stored_bytes, &entry.header}) {
      if (*value != kInZip64) continue;
      if (wide.size() < sizeof *value) FailEntry(entry, "lacks its zip64 sizes");
      *value = Load64(wide, 0);
      wide = wide.subspan(sizeof *value);
    }
  }

  // Also makes its header a place in the file.
  void CheckPlace(ZipEntry& entry) {
    const std::uint64_t least = kLocalBytes + entry.name.size();
    if (entry.header > directory_ || directory_ - entry.header < least ||
        directory_ - entry.header - least < entry.bytes) {
      FailEntry(entry, fmt::format("has {} at byte {}, which do not end before the directory at "
                                   "byte {}",
                                   ExactBytes(entry.bytes), entry.header, directory_));
    }
    entry.header += archive_.offset;
  }

  [[noreturn]] void FailEntry(const ZipEntry& entry, std::string_view problem,
                              std::string_view advice = kZipDamaged) const {
    FailZip(file_, archive_, fmt::format("entry {} {}", QuoteForMessage(entry.name), problem),
            advice);
  }

  const InputFile& file_;
  FileRange archive_;
  std::span<const std::byte> text_;
  std::uint64_t directory_;
  std::size_t at_ = 0;
};

// The positions of the entries in the order of `less`.
template <typename Less>
std::vector<std::uint32_t> Order(const std::vector<ZipEntry>& entries, const Less& less) {
  std::vector<std::uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return less(entries[a], entries[b]); });
  return order;
}

// Finds where each entry ends, and refuses those that share bytes.
void FindEnds(const InputFile& file, FileRange archive, std::uint64_t directory,
              std::vector<ZipEntry>& entries) {
  const std::vector<std::uint32_t> order =
      Order(entries, [](const ZipEntry& a, const ZipEntry& b) { return a.header < b.header; });
  for (std::size_t i = 0; i < order.size(); ++i) {
    ZipEntry& entry = entries[order[i]];
    const bool last = i + 1 == order.size();
    entry.end = last ? archive.offset + directory : entries[order[i + 1]].header;
    if (last || entry.end - entry.header >= kLocalBytes + entry.name.size() + entry.bytes) continue;
    FailZip(file, archive,
            fmt::format("entries {} and {} overlap: the first one takes {} from byte {}, and the "
                        "second one begins at byte {} of the file",
                        QuoteForMessage(entry.name), QuoteForMessage(entries[order[i + 1]].name),
                        ExactBytes(kLocalBytes + entry.name.size() + entry.bytes), entry.header,
                        entry.end));
  }
}

}  // namespace

std::optional<std::size_t> ZipDirectory::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](std::uint32_t entry, std::string_view wanted) { return entries_[entry].name < wanted; });
  if (found == by_name_.end() || entries_[*found].name != name) return std::nullopt;
  return *found;
}

void ZipDirectory::RequireStored(const InputFile& file) const {
  for (const ZipEntry& entry : entries_) {
    if (entry.method == 0) continue;
    FailZip(file, archive_,
            fmt::format("entry {} is compressed (method {})", QuoteForMessage(entry.name),
                        entry.method),
            "torch.save stores its entries as they are: save the checkpoint again, or make the "
            "archive without compression");
  }
}

FileRange ZipDirectory::Locate(const InputFile& file, const ZipEntry& entry) const {
  // The directory's checks leave room for both.
  std::vector<std::byte> header(kLocalBytes + entry.name.size());
  file.ReadAt(entry.header, header);
  const auto fail = [&](std::string_view problem) {
    FailZip(file, archive_, fmt::format("entry {} {}", QuoteForMessage(entry.name), problem));
  };
  if (!HasZipSignature(header, 0, kZipLocalSignature)) {
    fail(fmt::format("has no header at byte {} of the file", entry.header));
  }
  if (Load16(header, 26) != entry.name.size() ||
      ZipText(header).substr(kLocalBytes) != entry.name) {
    fail(fmt::format("has another name in its header at byte {} of the file", entry.header));
  }
  const std::uint64_t begin = header.size() + Load16(header, 28);
  const std::uint64_t room = entry.end - entry.header;
  if (room < begin || room - begin < entry.bytes) {
    fail(
        fmt::format("has {} from byte {} of the file, but the next part of the archive begins at "
                    "byte {}",
                    ExactBytes(entry.bytes), entry.header + begin, entry.end));
  }
  return {.offset = entry.header + begin, .bytes = entry.bytes};
}

ZipDirectory ReadZipDirectory(const InputFile& file, FileRange archive) {
  if (archive.offset > file.bytes() || archive.bytes > file.bytes() - archive.offset) {
    FailZip(file, archive,
            fmt::format("it has {}, so it would end behind the file, which has {}",
                        ExactBytes(archive.bytes), ExactBytes(file.bytes())));
  }
  const ZipEnd end = ReadZipEnd(file, archive);
  if (end.directory > end.place || end.directory_bytes > end.place - end.directory) {
    FailZip(
        file, archive,
        fmt::format("its directory has {} at byte {}, which do not end before its end record at "
                    "byte {}",
                    ExactBytes(end.directory_bytes), end.directory, end.place));
  }
  if (end.directory_bytes > kMaxZipDirectoryBytes) {
    FailZip(file, archive,
            fmt::format("its directory has {}; at most {} are read",
                        ExactBytes(end.directory_bytes), ExactBytes(kMaxZipDirectoryBytes)),
            "save the checkpoint in several files");
  }
  if (end.num_entries > end.directory_bytes / kCentralBytes) {
    FailZip(file, archive,
            fmt::format("its directory of {} cannot hold {} entries",
                        ExactBytes(end.directory_bytes), ShownCount(end.num_entries)));
  }
  ZipDirectory directory;
  directory.archive_ = archive;
  directory.text_ = std::make_unique_for_overwrite<std::byte[]>(end.directory_bytes);
  const std::span<std::byte> text(directory.text_.get(), end.directory_bytes);
  file.ReadAt(archive.offset + end.directory, text);
  directory.entries_ = EntryReader(file, archive, text, end.directory).Read(end.num_entries);
  std::vector<ZipEntry>& entries = directory.entries_;
  directory.by_name_ =
      Order(entries, [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const std::string_view name = entries[directory.by_name_[i]].name;
    if (name != entries[directory.by_name_[i - 1]].name) continue;
    FailZip(file, archive,
            fmt::format("it holds entry {} twice, so it is not clear which one is meant",
                        QuoteForMessage(name)),
            "save the checkpoint again");
  }
  FindEnds(file, archive, end.directory, entries);
  return directory;
}

ZipDirectory ReadZipDirectory(const InputFile& file) {
  return ReadZipDirectory(file, {.offset = 0, .bytes = file.bytes()});
}

}  // namespace dsv3::formats

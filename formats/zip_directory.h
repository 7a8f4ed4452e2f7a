#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/file_range.h"

// The directory of a stored zip archive, as torch.save writes it; docs/torch-files.md says what is
// accepted.
namespace dsv3::formats {

class InputFile;

inline constexpr std::uint64_t kMaxZipDirectoryBytes = std::uint64_t{1} << 26;

struct ZipEntry {
  std::string_view name;     // with its folders, "archive/data/0"; the directory holds the text
  std::uint64_t header = 0;  // where its local header lies in the file
  std::uint64_t end = 0;     // where the next entry, or the directory, begins in the file
  std::uint64_t bytes = 0;   // of its content
  std::uint32_t crc = 0;     // CRC-32 of its content; 0 means that the archive does not know it
  std::uint16_t method = 0;  // 0 for a content that is stored as it is, else it is compressed
};

// What an archive holds. The archive is a range of a file: the whole of it, or an item among
// others.
class ZipDirectory {
 public:
  const std::vector<ZipEntry>& entries() const {
    return entries_;
  }  // in the order of the directory
  FileRange archive() const { return archive_; }

  // The position of the entry of this name; nothing when there is none.
  std::optional<std::size_t> Find(std::string_view name) const;

  // Throws Error (kBadInput) where an entry is compressed.
  void RequireStored(const InputFile& file) const;

  // Where the content of an entry lies in the file. Reads the entry's local header, the only place
  // that knows; `file` is the one that the directory was read from. Throws Error: kBadInput when
  // the local header is not one, names another entry, or the content does not end before the next
  // entry; kIo when the disk fails.
  FileRange Locate(const InputFile& file, const ZipEntry& entry) const;

 private:
  friend ZipDirectory ReadZipDirectory(const InputFile& file, FileRange archive);

  FileRange archive_;
  std::unique_ptr<std::byte[]> text_;  // the directory as stored; names are views of it
  std::vector<ZipEntry> entries_;
  std::vector<std::uint32_t> by_name_;
};

// Reads the directory of an archive. Sizes, CRCs and places come from the central directory, with
// their zip64 forms. Refuses, each with a message of its own: a range that does not lie in the
// file, an archive that is cut off or has no end record, one of several volumes, a directory
// outside the archive or beyond kMaxZipDirectoryBytes, a count of entries that the directory
// cannot hold, contradictory end records, encrypted entries, a name twice, and
// entries outside the archive or in each other's bytes. Takes memory in proportion to the
// directory. Throws Error (kBadInput; kIo when the disk fails).
ZipDirectory ReadZipDirectory(const InputFile& file, FileRange archive);

// The same of an archive that is a whole file.
ZipDirectory ReadZipDirectory(const InputFile& file);

}  // namespace dsv3::formats

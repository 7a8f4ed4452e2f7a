#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"

namespace dsv3::convert {

// Compares what is read of archives with the CRCs that these know (SourceFile::checked), without a
// read of its own: bytes count once, in whatever order and pieces they come, and those of an entry
// are compared when all of them have come. An entry that is not read whole is not compared.
// Thread-safe.
class ArchiveChecks {
 public:
  // `catalog` outlives the object.
  explicit ArchiveChecks(const Catalog& catalog);
  ~ArchiveChecks();

  // Bytes of a file from `offset` on. Throws Error (kBadInput), naming file and entry, when an
  // entry's bytes have another CRC.
  void Add(std::uint32_t file, std::uint64_t offset, std::span<const std::byte> bytes);

 private:
  // What came of an entry.
  struct Entry {
    std::map<std::uint64_t, std::uint64_t> ranges;  // begin → end in the file, apart
    std::uint64_t counted = 0;                      // bytes whose CRC is in `crc`
    std::uint32_t crc = 0;
  };
  struct File;

  void AddToEntry(std::uint32_t file, std::size_t entry, std::uint64_t begin,
                  std::span<const std::byte> bytes);
  void Compare(std::uint32_t file, const CheckedBytes& entry, std::uint32_t found) const;

  const Catalog& catalog_;
  std::vector<std::unique_ptr<File>> files_;  // nullptr for one without checked bytes
};

// Whether reading the catalog's tensors may find such an error.
bool HasCheckedBytes(const Catalog& catalog);

}  // namespace dsv3::convert

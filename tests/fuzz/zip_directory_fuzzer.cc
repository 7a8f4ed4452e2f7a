// An input is an archive; the same bytes are also read as a range of a larger file, which must give
// the same.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/error.h"
#include "formats/zip_directory.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::FileRange;
using dsv3::formats::InputFile;
using dsv3::formats::ZipDirectory;
using dsv3::formats::ZipEntry;

struct Found {
  std::string name;
  std::uint64_t begin;  // within the archive
  std::uint64_t bytes;
  auto operator<=>(const Found&) const = default;
};

// All entries whose contents have a place; nothing for an archive that is refused.
std::vector<Found> Read(const InputFile& file, FileRange archive) {
  std::vector<Found> found;
  try {
    const ZipDirectory zip = dsv3::formats::ReadZipDirectory(file, archive);
    std::set<std::string_view> names;
    for (std::size_t i = 0; i < zip.entries().size(); ++i) {
      const ZipEntry& entry = zip.entries()[i];
      DSV3_FUZZ_REQUIRE(names.insert(entry.name).second);
      DSV3_FUZZ_REQUIRE(zip.Find(entry.name) == i);
      try {
        const FileRange range = zip.Locate(file, entry);
        found.push_back({std::string(entry.name), range.offset - archive.offset, range.bytes});
      } catch (const dsv3::Error& error) {
        DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
      }
    }
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return found;
}

// No byte belongs to two contents, and none lies outside.
void RequireApart(std::vector<Found> found, std::uint64_t archive_bytes) {
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.begin < b.begin; });
  std::uint64_t end = 0;
  for (const Found& entry : found) {
    constexpr std::uint64_t kHeaderBytes = 30;
    DSV3_FUZZ_REQUIRE(entry.begin >= end + kHeaderBytes + entry.name.size());
    end = entry.begin + entry.bytes;
    DSV3_FUZZ_REQUIRE(entry.bytes <= archive_bytes && end <= archive_bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemoryFile memory(data, size);
  const std::vector<Found> found = Read(memory.Open(), {.offset = 0, .bytes = size});
  RequireApart(found, size);

  constexpr std::size_t kBefore = 100;
  std::vector<std::uint8_t> larger(kBefore, 'P');
  larger.insert(larger.end(), data, data + size);
  larger.insert(larger.end(), {'P', 'K', 5, 6});
  const MemoryFile around(larger.data(), larger.size());
  DSV3_FUZZ_REQUIRE(Read(around.Open(), {.offset = kBefore, .bytes = size}) == found);
  return 0;
}

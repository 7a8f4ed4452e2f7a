#include "convert/stream/archive_checks.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/hash/crc32.h"
#include "tests/convert/support/conversion.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using dsv3::testing::AsBytes;
using dsv3::testing::ErrorOf;
using ::testing::HasSubstr;

// A file of 10,000 bytes with two entries; nothing knows the CRC of what is around them.
class ArchiveChecksTest : public ::testing::Test {
 protected:
  ArchiveChecksTest() : bytes_(dsv3::testing::RandomBytes(10'000, 1)) {
    SourceFile file;
    file.name = "a.pt";
    file.checked = {Entry(100, 4000, "data/0"), Entry(5000, 4000, "data/1")};
    catalog_ = Catalog({file}, {});
  }

  CheckedBytes Entry(std::uint64_t offset, std::uint64_t length, const char* name) const {
    return {offset, length, formats::Crc32(AsBytes(bytes_).subspan(offset, length)), name};
  }

  static void Add(ArchiveChecks& checks, const std::string& bytes, std::size_t begin,
                  std::size_t end) {
    checks.Add(0, begin, AsBytes(bytes).subspan(begin, end - begin));
  }

  std::string bytes_;
  Catalog catalog_;
};

TEST_F(ArchiveChecksTest, TakesPiecesInAnyOrderAndTwice) {
  std::vector<std::pair<std::size_t, std::size_t>> pieces = {
      {0, 150}, {150, 1000}, {900, 2000}, {1500, 1600}, {2000, 4100}, {3000, 10'000}, {4999, 5001}};
  std::sort(pieces.begin(), pieces.end());
  do {
    ArchiveChecks checks(catalog_);
    for (const auto& [begin, end] : pieces) Add(checks, bytes_, begin, end);
  } while (std::next_permutation(pieces.begin(), pieces.end()));
}

TEST_F(ArchiveChecksTest, NamesFileAndEntryWhereAByteIsWrong) {
  for (const std::size_t wrong : {100U, 2047U, 2048U, 4099U}) {
    std::string spoiled = bytes_;
    spoiled[wrong] = static_cast<char>(spoiled[wrong] ^ 1);
    ArchiveChecks checks(catalog_);
    Add(checks, spoiled, 2048, 5000);
    Add(checks, spoiled, 5000, 9000);  // the other entry is right
    const Error error = ErrorOf([&] { Add(checks, spoiled, 0, 2048); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr("a.pt: entry 'data/0' at byte 100"));
    EXPECT_THAT(error.message(), HasSubstr("copy it again"));
  }
}

TEST_F(ArchiveChecksTest, LeavesAloneWhatIsNotReadWhole) {
  const std::string other(bytes_.size(), 'x');
  ArchiveChecks checks(catalog_);
  Add(checks, other, 0, 4099);
  Add(checks, other, 5001, 10'000);
  Add(checks, other, 4100, 5000);
}

TEST_F(ArchiveChecksTest, ManyPiecesApartAreGivenUp) {
  SourceFile file;
  file.checked = {{0, 20'000, 1, "data/0"}};
  const Catalog catalog({file}, {});
  ArchiveChecks many(catalog);
  const std::string other(20'000, 'x');
  for (std::size_t i = 0; i < other.size(); i += 2) Add(many, other, i, i + 1);
  Add(many, other, 0, other.size());
}

}  // namespace
}  // namespace dsv3::convert

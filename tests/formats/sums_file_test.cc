#include "formats/sums_file.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string kDigest(64, 'a');

TEST(SumsFileTest, ReadsBackEveryNameThatItWrites) {
  for (const std::string name : {"plain", "with space", "sub/dir", "back\\slash", "new\nline",
                                 "carriage\rreturn", "\\", "ends with \\n", "*star", "\xff\xfe"}) {
    const SumsFile sums = ParseSums(SumsLine(name, kDigest));
    ASSERT_EQ(sums.entries.size(), 1U) << name;
    EXPECT_EQ(sums.entries[0].name, name);
    EXPECT_EQ(sums.entries[0].sha256, kDigest);
    EXPECT_THAT(sums.bad_lines, IsEmpty());
  }
}

TEST(SumsFileTest, EscapesAsSha256sumDoes) {
  EXPECT_EQ(SumsLine("a b", kDigest), kDigest + "  a b\n");
  EXPECT_EQ(SumsLine("a\\b\nc\rd", kDigest), "\\" + kDigest + "  a\\\\b\\nc\\rd\n");
}

TEST(SumsFileTest, ReadsTheOtherFormsOfSha256sum) {
  const SumsFile sums =
      ParseSums("# a comment\n\n" + kDigest + " *binary\n" + std::string(64, 'B') +
                "  ./below/name\nSHA256 (tagged (1)) = " + kDigest + "\n" + kDigest +
                "  no newline at the end");
  ASSERT_EQ(sums.entries.size(), 4U);
  EXPECT_EQ(sums.entries[0].name, "binary");
  EXPECT_EQ(sums.entries[1].name, "below/name");
  EXPECT_EQ(sums.entries[1].sha256, std::string(64, 'b'));
  EXPECT_EQ(sums.entries[2].name, "tagged (1)");
  EXPECT_EQ(sums.entries[3].name, "no newline at the end");
  EXPECT_THAT(sums.bad_lines, IsEmpty());
}

TEST(SumsFileTest, CountsLinesOfNoKnownForm) {
  const SumsFile sums =
      ParseSums("rubbish\n" + kDigest + "  good\n" + kDigest.substr(1) + "  short\n" + kDigest +
                "no blank\n" + std::string(64, 'g') + "  no digit\n\\" + kDigest +
                "  bad \\escape\n" + kDigest + "  \n" + "SHA256 (x = " + kDigest + "\n");
  EXPECT_EQ(sums.entries.size(), 1U);
  EXPECT_THAT(sums.bad_lines, ElementsAre(1, 3, 4, 5, 6, 7, 8));
}

}  // namespace
}  // namespace dsv3::formats

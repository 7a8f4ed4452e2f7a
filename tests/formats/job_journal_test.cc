#include "formats/job_journal.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::WriteFile;

std::string HeadLine(const std::string& outputs) {
  return DigestedLine(R"({"dsv3_journal":2,"recipe":"merge","sources":[],"outputs":[)" + outputs +
                      R"(],"replaced":[],"sides":[]})");
}

std::string FileLine(const std::string& name) {
  return DigestedLine("{\"file\":\"" + name + R"(","bytes":1,"digests":["",""],"tensors":[]})");
}

class JobJournalTest : public ::testing::Test {
 protected:
  testing::TempDir dir_{testing::MemoryDirectory()};
};

TEST(DigestedLineTest, ALineIsTakenOnlyWhole) {
  const std::string line = DigestedLine("text");
  std::string_view rest = line;
  EXPECT_EQ(TakeDigestedLine(rest), "text");
  EXPECT_EQ(rest, "");
  for (std::size_t length = 0; length < line.size(); ++length) {
    std::string_view cut = std::string_view(line).substr(0, length);
    EXPECT_EQ(TakeDigestedLine(cut), std::nullopt) << length;
    EXPECT_EQ(cut.size(), length);
  }
  std::string changed = line;
  changed[line.size() - 2] ^= 1;
  rest = changed;
  EXPECT_EQ(TakeDigestedLine(rest), std::nullopt);
}

TEST_F(JobJournalTest, SaysWhichJobItIsAndHowFarItCame) {
  EXPECT_FALSE(ReadJobProgress(dir_.path()));
  WriteFile(dir_ / ".dsv3-journal", HeadLine(R"("a","b","index","c")") + FileLine("b") + "cut off");
  WriteFile(dir_ / "index", "x");
  const auto progress = ReadJobProgress(dir_.path());
  ASSERT_TRUE(progress);
  EXPECT_EQ(progress->journal, ".dsv3-journal");
  EXPECT_EQ(progress->recipe, "merge");
  EXPECT_EQ(progress->files, 4U);
  EXPECT_EQ(progress->completed, 2U);
  EXPECT_EQ(progress->parts, 0U);
}

TEST_F(JobJournalTest, PartsCountTogether) {
  WriteFile(dir_ / ".dsv3-journal-part-0-of-16", HeadLine(R"("a","b","c")") + FileLine("a"));
  WriteFile(dir_ / ".dsv3-journal-part-3-of-16", HeadLine(R"("a","b","c")") + FileLine("b"));
  WriteFile(dir_ / ".dsv3-journal.partial", HeadLine(R"("z")"));
  const auto progress = ReadJobProgress(dir_.path());
  ASSERT_TRUE(progress);
  EXPECT_EQ(progress->files, 3U);
  EXPECT_EQ(progress->completed, 2U);
  EXPECT_EQ(progress->parts, 16U);
}

TEST_F(JobJournalTest, AJournalWithoutAWholeFirstLineSaysNothing) {
  for (const std::string& text :
       {std::string(), std::string("x"), HeadLine("\"a\"").substr(1), DigestedLine("[]")}) {
    WriteFile(dir_ / ".dsv3-journal", text);
    EXPECT_FALSE(ReadJobProgress(dir_.path())) << text;
  }
}

// A journal may come from anywhere; a name in it must not be looked up elsewhere.
TEST_F(JobJournalTest, NamesThatLeadElsewhereAreNotLookedUp) {
  WriteFile(dir_ / "in/.dsv3-journal", HeadLine(R"("../outside","/etc")"));
  WriteFile(dir_ / "outside", "x");
  EXPECT_EQ(ReadJobProgress(dir_ / "in")->completed, 0U);
}

}  // namespace
}  // namespace dsv3::formats

#include "cli/units.h"

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

TEST(FormatBytesTest, KeepsOneDecimalAndMovesToTheNextUnitInTime) {
  EXPECT_EQ(FormatBytes(0), "0 bytes");
  EXPECT_EQ(FormatBytes(1), "1 byte");
  EXPECT_EQ(FormatBytes(999), "999 bytes");
  EXPECT_EQ(FormatBytes(1000), "1.0 kB");
  EXPECT_EQ(FormatBytes(999'949), "999.9 kB");
  EXPECT_EQ(FormatBytes(999'950), "1.0 MB");
  EXPECT_EQ(FormatBytes(688'586'727'753), "688.6 GB");
  EXPECT_EQ(FormatBytes(1'369'000'000'000), "1.4 TB");
  EXPECT_EQ(FormatBytes(UINT64_MAX), "18.4 EB");
}

TEST(FormatCountTest, GroupsDigitsByThree) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(91'991), "91,991");
  EXPECT_EQ(FormatCount(UINT64_MAX), "18,446,744,073,709,551,615");
  EXPECT_EQ(FormatCountOf(1, "file"), "1 file");
  EXPECT_EQ(FormatCountOf(0, "file"), "0 files");
  EXPECT_EQ(FormatCountOf(1163, "file"), "1,163 files");
}

TEST(FormatSecondsTest, ChoosesTheUnit) {
  EXPECT_EQ(FormatSeconds(0.04), "0.0 s");
  EXPECT_EQ(FormatSeconds(9.94), "9.9 s");
  EXPECT_EQ(FormatSeconds(9.96), "10 s");
  EXPECT_EQ(FormatSeconds(59.6), "1 min 00 s");
  EXPECT_EQ(FormatSeconds(200), "3 min 20 s");
  EXPECT_EQ(FormatSeconds(7500), "2 h 05 min");
  EXPECT_EQ(FormatClock(0), "0:00");
  EXPECT_EQ(FormatClock(200), "3:20");
  EXPECT_EQ(FormatClock(7500), "2:05:00");
}

TEST(PrintableTest, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(Printable("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(Printable("Gewichte für Ärzte 模型"), "Gewichte für Ärzte 模型");
  EXPECT_EQ(Printable("\x1b[2J\n\x7f"), "\\x1b[2J\\x0a\\x7f");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b31m");
  EXPECT_EQ(Printable("\xc2\xa0"), "\xc2\xa0");
  EXPECT_EQ(Printable("a\u202e.txt"), "a\\xe2\\x80\\xae.txt");  // from right to left
  EXPECT_EQ(Printable("a\xff"
                      "b\xc2"),
            "a\\xffb\\xc2");
}

TEST(Utf8OfTest, ReplacesOnlyWhatIsNoUtf8) {
  EXPECT_EQ(Utf8Of("für\n"), "für\n");
  EXPECT_EQ(Utf8Of("a\xff"
                   "b"),
            "a\xEF\xBF\xBD"
            "b");
}

TEST(FormatParameters, SpeaksLikeModelCards) {
  EXPECT_EQ(FormatParameters(0), "0");
  EXPECT_EQ(FormatParameters(999), "999");
  EXPECT_EQ(FormatParameters(1'000), "1.0k");
  EXPECT_EQ(FormatParameters(9'940'000), "9.9M");
  EXPECT_EQ(FormatParameters(9'960'000), "10M");
  EXPECT_EQ(FormatParameters(999'960'000), "1.0B");
  EXPECT_EQ(FormatParameters(36'625'625'600), "37B");
  EXPECT_EQ(FormatParameters(671'026'419'200), "671B");
  EXPECT_EQ(FormatParameters(1'026'000'000'000), "1.0T");
}

}  // namespace
}  // namespace dsv3::cli

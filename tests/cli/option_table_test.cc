#include "cli/option_table.h"

#include <cstdint>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

TEST(ParseSizeTest, TakesBytesAndUnits) {
  EXPECT_EQ(ParseSize("1"), 1U);
  EXPECT_EQ(ParseSize("200M"), 200'000'000U);
  EXPECT_EQ(ParseSize("3K"), 3000U);
  EXPECT_EQ(ParseSize("3KB"), 3000U);
  EXPECT_EQ(ParseSize("2G"), 2'000'000'000U);
  EXPECT_EQ(ParseSize("1Ki"), 1024U);
  EXPECT_EQ(ParseSize("160Mi"), 160U << 20U);
  EXPECT_EQ(ParseSize("2GiB"), std::uint64_t{2} << 30U);
  EXPECT_EQ(ParseSize("7B"), 7U);
  EXPECT_EQ(ParseSize("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(ParseSize("17179869183Gi"), std::uint64_t{17179869183} << 30U);
}

TEST(ParseSizeTest, RejectsEverythingElse) {
  for (const char* text : {"",
                           "0",
                           "0K",
                           "-1",
                           "+1",
                           " 1",
                           "1 ",
                           "1 M",
                           "1.5G",
                           "M",
                           "B",
                           "1m",
                           "1k",
                           "1KiBB",
                           "1BB",
                           "1T",
                           "0x10",
                           "1e9",
                           "18446744073709551616",
                           "17179869184Gi",
                           "18446744073709551615K",
                           "99999999999999999999999",
                           "one",
                           "1Kib",
                           "1\n"}) {
    EXPECT_THROW(ParseSize(text), BadValue) << '"' << text << '"';
  }
}

TEST(ParseNumberTest, TakesDigitsUpToTheMaximum) {
  EXPECT_EQ(ParseNumber("0", 4096, ""), 0U);
  EXPECT_EQ(ParseNumber("4096", 4096, ""), 4096U);
  EXPECT_EQ(ParseNumber("18446744073709551615", UINT64_MAX, ""), UINT64_MAX);
}

TEST(ParseNumberTest, RejectsEverythingElse) {
  for (const char* text : {"", "-1", "+1", " 1", "1 ", "4097", "1.0", "1e3", "0x1", "all",
                           "18446744073709551616", "18446744073709551617"}) {
    EXPECT_THROW(ParseNumber(text, 4096, ""), BadValue) << '"' << text << '"';
  }
}

TEST(OneOfTest, StoresTheMeaningAndNamesTheChoices) {
  int target = 0;
  const Option option = OneOf<int>("count", "N", {{"one", 1, ""}, {"two", 2, ""}, {"six", 6, ""}},
                                   &target, "A count.");
  option.set("two");
  EXPECT_EQ(target, 2);
  try {
    option.set("three");
    FAIL() << "accepted";
  } catch (const BadValue& bad) {
    EXPECT_STREQ(bad.what(), "give one, two or six");
  }
  EXPECT_EQ(target, 2);
}

}  // namespace
}  // namespace dsv3::cli

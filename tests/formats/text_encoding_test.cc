#include "formats/text_encoding.h"

#include <string>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

// UTF-16 of an ASCII text.
std::string Utf16(const std::string& text, bool big) {
  std::string out;
  for (const char c : text) {
    if (big) out.push_back('\0');
    out.push_back(c);
    if (!big) out.push_back('\0');
  }
  return out;
}

TEST(TextEncodingTest, LeavesBytesAsTheyAre) {
  for (const std::string text : {"", "a", "a b\r\n", "\xff\xff", "gr\xc3\xbc\xc3\x9f"}) {
    EXPECT_EQ(ToUtf8(text), text);
  }
}

TEST(TextEncodingTest, DropsByteOrderMarks) {
  EXPECT_EQ(ToUtf8("\xEF\xBB\xBF"
                   "ab"),
            "ab");
  EXPECT_EQ(ToUtf8("\xFF\xFE" + Utf16("ab\n", false)), "ab\n");
  EXPECT_EQ(ToUtf8("\xFE\xFF" + Utf16("ab\n", true)), "ab\n");
}

TEST(TextEncodingTest, SeesUtf16WithoutAMark) {
  EXPECT_EQ(ToUtf8(Utf16("ab\n", false)), "ab\n");
  EXPECT_EQ(ToUtf8(Utf16("ab\n", true)), "ab\n");
}

TEST(TextEncodingTest, DecodesUtf32) {
  using namespace std::string_literals;
  EXPECT_EQ(ToUtf8("\xFF\xFE\0\0a\0\0\0\x00\xF6\x01\0"s), "a\xf0\x9f\x98\x80");
  EXPECT_EQ(ToUtf8("\0\0\xFE\xFF\0\0\0a\0\0\0\n"s), "a\n");
  EXPECT_EQ(ToUtf8("a\0\0\0\n\0\0\0"s), "a\n");
  EXPECT_EQ(ToUtf8("\0\0\0a\0\0\0\n"s), "a\n");
  // Half of a pair, a number beyond all characters, and bytes that are too few.
  EXPECT_EQ(ToUtf8("\xFF\xFE\0\0\0\xD8\0\0\0\0\x11\0\x61\0"s), "\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(TextEncodingTest, DecodesCharactersOfOneAndTwoUnits) {
  using namespace std::string_literals;
  EXPECT_EQ(ToUtf8("\xFF\xFE\xfc\x00\x3d\xd8\x00\xde"s), "\xc3\xbc\xf0\x9f\x98\x80");
  // Half a pair, a pair the wrong way round, and a last byte alone.
  EXPECT_EQ(ToUtf8("\xFF\xFE\x3d\xd8\x61\x00"s), "\xef\xbf\xbd"s + "a");
  EXPECT_EQ(ToUtf8("\xFF\xFE\x00\xde\x3d\xd8"s), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(ToUtf8("\xFF\xFE\x61\x00\x62"s), "a");
}

}  // namespace
}  // namespace dsv3::formats

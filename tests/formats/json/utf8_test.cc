#include "formats/json/utf8.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

// Well-formed UTF-8 by decoding: the encoding of each code point is found by AppendUtf8.
TEST(Utf8Test, EveryCodePointIsWellFormedAndNoPartOfItIs) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(text, c);
    ASSERT_EQ(FindInvalidUtf8(text), text.size()) << static_cast<unsigned>(c);
    if (text.size() > 1) {
      ASSERT_EQ(FindInvalidUtf8(text.substr(0, text.size() - 1)), 0U);
      ASSERT_EQ(FindInvalidUtf8(text.substr(1)), 0U);
    }
  }
}

TEST(Utf8Test, EncodesByTheStandard) {
  const auto encoded = [](char32_t c) {
    std::string text;
    AppendUtf8(text, c);
    return text;
  };
  EXPECT_EQ(encoded('a'), "a");
  EXPECT_EQ(encoded(0x7FF), "\xDF\xBF");
  EXPECT_EQ(encoded(0x800), "\xE0\xA0\x80");
  EXPECT_EQ(encoded(0xFFFF), "\xEF\xBF\xBF");
  EXPECT_EQ(encoded(0x10000), "\xF0\x90\x80\x80");
  EXPECT_EQ(encoded(0x10FFFF), "\xF4\x8F\xBF\xBF");
}

TEST(Utf8Test, FindsIllFormedBytesAtEveryPlace) {
  for (const std::string_view bad :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE", "\xFF", "\xC3", "\xC3(",
        "\xE2\x82", "\xE2(\xA1", "\xF0\x9F\x98", "\xF0\x9F(\x80"}) {
    for (std::size_t before = 0; before < 34; ++before) {
      const std::string text = std::string(before, 'x') + std::string(bad);
      EXPECT_EQ(FindInvalidUtf8(text), before);
      EXPECT_EQ(FindInvalidUtf8(text + std::string(40, 'y')), before);
    }
  }
}

}  // namespace
}  // namespace dsv3::formats

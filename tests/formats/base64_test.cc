#include "formats/base64.h"

#include <array>
#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

// RFC 4648, section 10.
constexpr std::array<std::pair<const char*, const char*>, 7> kVectors = {{
    {"", ""},
    {"f", "Zg=="},
    {"fo", "Zm8="},
    {"foo", "Zm9v"},
    {"foob", "Zm9vYg=="},
    {"fooba", "Zm9vYmE="},
    {"foobar", "Zm9vYmFy"},
}};

TEST(Base64Test, EncodesAndDecodesThePublishedVectors) {
  for (const auto& [bytes, text] : kVectors) {
    EXPECT_EQ(EncodeBase64(bytes), text);
    EXPECT_EQ(DecodeBase64(text), bytes);
  }
}

TEST(Base64Test, KeepsAllBytes) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  EXPECT_EQ(DecodeBase64(EncodeBase64(bytes)), bytes);
  EXPECT_EQ(EncodeBase64("\xfb\xff\xfe"), "+//+");
}

TEST(Base64Test, RejectsWhatIsNotTheOneSpelling) {
  for (const char* text : {"Zg", "Zg=", "Zg===", "====", "=", "Z===", "Zm9v\n", "Zm 9v",
                           "Zm9v====", "Zg==Zg==", "-_-_", "Zh==", "Zm9=", "Zm\xc3\xa4="}) {
    EXPECT_EQ(DecodeBase64(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace dsv3::formats

#include "formats/hash/crc32.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using testing::AsBytes;

TEST(Crc32Test, EqualsTheKnownValues) {
  EXPECT_EQ(Crc32({}), 0U);
  EXPECT_EQ(Crc32(AsBytes("a")), 0xE8B7BE43U);
  EXPECT_EQ(Crc32(AsBytes("123456789")), 0xCBF43926U);
  EXPECT_EQ(Crc32(AsBytes("The quick brown fox jumps over the lazy dog")), 0x414FA339U);
}

TEST(Crc32Test, PartsGiveTheCrcOfTheWhole) {
  const std::string text = testing::RandomBytes(100, 1);
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::uint32_t first = Crc32(AsBytes(text).first(cut));
    EXPECT_EQ(Crc32(AsBytes(text).subspan(cut), first), Crc32(AsBytes(text)));
  }
}

}  // namespace
}  // namespace dsv3::formats

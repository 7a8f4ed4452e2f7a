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

// A bit at a time.
std::uint32_t Slowly(std::span<const std::byte> data) {
  std::uint32_t state = 0xFFFF'FFFFU;
  for (const std::byte byte : data) {
    state ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) {
      state = state >> 1 ^ ((state & 1) != 0 ? 0xEDB8'8320U : 0U);
    }
  }
  return ~state;
}

TEST(Crc32Test, IsThatOfTheBitsAtEveryLengthAndPlace) {
  const std::string text = testing::RandomBytes(700, 2);
  for (std::size_t length = 0; length < 600; ++length) {
    const auto piece = AsBytes(text).subspan(length % 17, length);
    EXPECT_EQ(Crc32(piece), Slowly(piece)) << length;
  }
}

TEST(Crc32Test, PiecesInAnyOrderGiveTheCrcOfTheWhole) {
  const std::string text = testing::RandomBytes(1000, 3);
  for (const std::size_t cut : {0U, 1U, 63U, 64U, 500U, 999U, 1000U}) {
    const auto front = AsBytes(text).first(cut);
    const auto back = AsBytes(text).subspan(cut);
    EXPECT_EQ(Crc32Before(Crc32(front), back.size()) ^ Crc32(back), Crc32(AsBytes(text)));
  }
  // Over more zeros than fit into memory, in two steps as in one.
  const std::uint64_t far = std::uint64_t{5} << 33;
  EXPECT_EQ(Crc32Before(Crc32Before(0x12345678, far), 77), Crc32Before(0x12345678, far + 77));
}

}  // namespace
}  // namespace dsv3::formats

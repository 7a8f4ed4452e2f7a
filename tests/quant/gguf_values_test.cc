#include "quant/gguf_values.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace dsv3::quant {
namespace {

std::vector<std::byte> Bytes(const std::vector<unsigned>& values) {
  std::vector<std::byte> bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(GgufValuesTest, Q8IsASignedCodeTimesAHalf) {
  std::vector<unsigned> block = {0x00, 0xB8};  // −0.5
  for (unsigned i = 0; i < 32; ++i) block.push_back(i * 8 + 1);
  std::vector<unsigned> two = {0x01, 0x00};  // 2^-24
  for (unsigned i = 0; i < 32; ++i) two.push_back(255 - i);
  block.insert(block.end(), two.begin(), two.end());
  std::vector<float> values(64);
  DecodeQ8_0(Bytes(block), values.data());
  EXPECT_EQ(values[0], -0.5F);
  EXPECT_EQ(values[15], -60.5F);             // 121
  EXPECT_EQ(values[16], 63.5F);              // 129 is −127
  EXPECT_EQ(values[31], 3.5F);               // 249 is −7
  EXPECT_EQ(values[32], -0x1p-24F);          // 255 is −1
  EXPECT_EQ(values[63], -32.0F * 0x1p-24F);  // 224 is −32
}

TEST(GgufValuesTest, Q4LiesInHalvesOfABlock) {
  std::vector<unsigned> block = {0x00, 0x40};  // 2
  for (unsigned i = 0; i < 16; ++i) block.push_back(i | (15 - i) << 4);
  std::vector<float> values(32);
  DecodeQ4_0(Bytes(block), values.data());
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)], static_cast<float>(2 * (i - 8)));
    EXPECT_EQ(values[static_cast<std::size_t>(i) + 16], static_cast<float>(2 * (7 - i)));
  }
}

TEST(GgufValuesTest, MxFp4IsACodeTimesAPowerOfTwo) {
  constexpr float kCodes[16] = {0,     0.5F,  1,     1.5F,  2,     3,     4,     6,
                                -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
  const auto decode = [](unsigned scale) {
    std::vector<unsigned> block = {scale};
    for (unsigned i = 0; i < 16; ++i) block.push_back(i | (15 - i) << 4);
    std::vector<float> values(32);
    DecodeMxfp4(Bytes(block), values.data());
    return values;
  };
  for (const unsigned scale : {0U, 1U, 100U, 127U, 130U, 252U}) {
    const std::vector<float> values = decode(scale);
    for (std::size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(values[i], std::ldexp(kCodes[i], static_cast<int>(scale) - 127)) << scale;
      EXPECT_EQ(values[i + 16], std::ldexp(kCodes[15 - i], static_cast<int>(scale) - 127));
    }
  }
  EXPECT_EQ(decode(254)[7], std::numeric_limits<float>::infinity());
  for (const float value : decode(255)) EXPECT_TRUE(std::isnan(value));
}

TEST(GgufValuesTest, AScaleThatIsNoNumberShowsInEveryValue) {
  std::vector<unsigned> block(34, 1);
  block[0] = 0x00;
  block[1] = 0x7E;
  std::vector<float> values(32);
  DecodeQ8_0(Bytes(block), values.data());
  for (const float value : values) EXPECT_TRUE(std::isnan(value));
  block.resize(18);
  block[1] = 0x7C;  // infinity, and code 8 is 0
  block[2] = 0x18;
  DecodeQ4_0(Bytes(block), values.data());
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[16], -std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace dsv3::quant

#include "quant/gguf_blocks.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

class GgufBlocksKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, GgufBlocksKernel, EveryTarget(), TargetName);

std::vector<std::byte> Q8(const std::vector<float>& values) {
  std::vector<std::byte> out(values.size() / kQ8_0Elements * kQ8_0Bytes);
  EncodeQ8_0(values, out.data());
  return out;
}

std::vector<std::byte> Q8Scalar(const std::vector<float>& values) {
  std::vector<std::byte> out(values.size() / kQ8_0Elements * kQ8_0Bytes);
  EncodeQ8_0Scalar(values, out.data());
  return out;
}

TEST(GgufBlocksTest, Q8RoundsHalfAwayFromZero) {
  // The largest magnitude 127 makes d 1, so that the values are the products.
  std::vector<float> values(32, 0.0F);
  values[0] = -127;
  values[1] = 0.5F;
  values[2] = -0.5F;
  values[3] = 1.5F;
  values[4] = 2.5F;
  values[5] = 0.49999997F;
  values[6] = -126.5F;
  const std::vector<std::byte> out = Q8(values);
  EXPECT_EQ(std::to_integer<int>(out[0]) | std::to_integer<int>(out[1]) << 8, 0x3C00);
  const auto code = [&](std::size_t i) { return static_cast<std::int8_t>(out[2 + i]); };
  EXPECT_EQ(code(0), -127);
  EXPECT_EQ(code(1), 1);
  EXPECT_EQ(code(2), -1);
  EXPECT_EQ(code(3), 2);
  EXPECT_EQ(code(4), 3);
  EXPECT_EQ(code(5), 0);
  EXPECT_EQ(code(6), -127);
}

TEST(GgufBlocksTest, Q8OfValuesThatHaveNoCodes) {
  const auto first_bytes = [](float value) {
    std::vector<float> values(32, 1.0F);
    values[3] = value;
    const std::vector<std::byte> out = Q8(values);
    for (std::size_t i = 2; i < out.size(); ++i) EXPECT_EQ(out[i], std::byte{0});
    return std::to_integer<int>(out[0]) | std::to_integer<int>(out[1]) << 8;
  };
  EXPECT_EQ(first_bytes(std::numeric_limits<float>::infinity()), 0x7C00);
  EXPECT_EQ(first_bytes(std::numeric_limits<float>::quiet_NaN()), 0x7E00);
  EXPECT_EQ(Q8(std::vector<float>(32, 0.0F)), std::vector<std::byte>(34));
  EXPECT_EQ(Q8(std::vector<float>(32, 1e-44F)), std::vector<std::byte>(34));
}

TEST_P(GgufBlocksKernel, Q8EqualsTheScalarDefinition) {
  std::mt19937 random(7);
  std::vector<float> values;
  for (int block = 0; block < 4000; ++block) {
    const int exponent = static_cast<int>(random() % 300) - 160;
    for (int i = 0; i < 32; ++i) {
      // Few mantissa bits give many ties.
      const auto mantissa = static_cast<float>(static_cast<int>(random() % 511) - 255);
      values.push_back(std::ldexp(mantissa, exponent));
    }
    if (block % 5 == 0) values[values.size() - 7] = std::ldexp(254.0F, exponent);
    if (block % 97 == 0) {
      values[values.size() - 3] = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    }
  }
  EXPECT_EQ(Q8(values), Q8Scalar(values));
}

TEST_P(GgufBlocksKernel, HalvesEqualTheScalarDefinition) {
  std::vector<float> values;
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const std::uint32_t lower : {0x0000U, 0x0FFFU, 0x1000U, 0x1001U, 0x8000U, 0xF000U}) {
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  values.pop_back();  // not a multiple of a vector
  std::vector<std::uint16_t> expected(values.size());
  EncodeHalvesScalar(values, expected.data());
  std::vector<std::uint16_t> found(values.size());
  EncodeHalves(values, found.data());
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace dsv3::quant

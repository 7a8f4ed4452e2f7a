#include "quant/activations.h"

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

using testing::ElementsAre;

class ActivationsKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, ActivationsKernel, EveryTarget(), TargetName);

// Bits, with one NaN for all: −0 differs from 0.
std::vector<std::uint32_t> Bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) {
    bits.push_back(std::isnan(value) ? 0x7FC00000U : std::bit_cast<std::uint32_t>(value));
  }
  return bits;
}

struct Quantized {
  std::vector<std::uint32_t> values;
  std::vector<std::uint32_t> scales;
  bool operator==(const Quantized&) const = default;
};

template <typename Function>
Quantized Run(const Function& quantize, std::vector<float> row, bool ue8m0) {
  std::vector<float> scales((row.size() + kActivationGroup - 1) / kActivationGroup);
  quantize(row, ue8m0, scales.data());
  return {Bits(row), Bits(scales)};
}

void ExpectScalarResult(const std::vector<float>& row) {
  for (const bool ue8m0 : {false, true}) {
    EXPECT_TRUE(Run(QuantizeActivations, row, ue8m0) == Run(QuantizeActivationsScalar, row, ue8m0))
        << row.size() << (ue8m0 ? " values, ue8m0" : " values");
  }
}

TEST_P(ActivationsKernel, QuantizesRowsOfAnyLengthLikeTheScalarDefinition) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> row;
  for (std::size_t size = 0; size < 300; ++size) {
    ExpectScalarResult(row);
    // Of many magnitudes, so that codes are subnormal and zero too.
    row.push_back(normal(random) * std::exp2(-static_cast<float>(random() % 16)));
  }
}

// With an absmax of 448 the scale is 1: every tie, and its neighbours, of normal and subnormal
// codes.
TEST_P(ActivationsKernel, RoundsTiesLikeTheScalarDefinition) {
  std::vector<float> row;
  for (int exponent = -13; exponent < 9; ++exponent) {
    for (int sixteenth = 0; sixteenth < 16; ++sixteenth) {
      const float tie = std::ldexp(1.0F + static_cast<float>(sixteenth) / 16, exponent);
      for (const float x : {tie, std::nextafter(tie, 0.0F), std::nextafter(tie, 448.0F)}) {
        if (row.size() % kActivationGroup == 0) row.push_back(448);
        row.push_back(row.size() % 2 == 0 ? std::min(x, 448.0F) : std::max(-x, -448.0F));
      }
    }
  }
  ExpectScalarResult(row);
}

TEST_P(ActivationsKernel, TakesExtremeGroupsLikeTheScalarDefinition) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float x : {0.0F, -0.0F, 1e-45F, 3e-43F, 1e-42F, 1e-38F, 5e-36F, 3.4e38F, kInfinity,
                        -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::size_t size : {1U, 16U, 21U, 128U, 150U}) {
      std::vector<float> row(size);
      row[size / 2] = x;
      ExpectScalarResult(row);
    }
  }
}

TEST_P(ActivationsKernel, RoundsToBF16LikeTheScalarDefinition) {
  std::mt19937 random(4);
  for (std::size_t size = 0; size < 400; size += size < 40 ? 1 : 40) {
    std::vector<float> values;
    for (std::size_t i = 0; i < size; ++i) {
      auto bits = static_cast<std::uint32_t>(random());
      if (i % 3 == 0) bits = (bits & 0xFFFF0000U) | 0x8000U;  // a tie
      values.push_back(std::bit_cast<float>(bits));
    }
    std::vector<float> expected = values;
    RoundToBF16Scalar(expected);
    RoundToBF16(values);
    EXPECT_EQ(Bits(values), Bits(expected)) << size;
  }
}

TEST(ActivationsTest, QuantizesAsEnginesDo) {
  std::vector<float> row(kActivationGroup + 2);
  row[0] = 4.48F;
  row[1] = -0.0106F;  // −1.06 steps
  row[2] = 1.0F;      // 100 lies between the codes 96 and 104
  row[128] = 0;
  std::vector<float> scales(2);
  QuantizeActivations(row, false, scales.data());
  EXPECT_THAT(scales, ElementsAre(4.48F / 448, 1));
  EXPECT_EQ(row[0], 448);
  EXPECT_EQ(row[1], -1.0F);
  EXPECT_TRUE(row[2] == 96 || row[2] == 104) << row[2];

  row[0] = 4.48F;
  QuantizeActivations(std::span(row).first(1), true, scales.data());
  EXPECT_EQ(scales[0], 0x1p-6F);  // above 0.01
  EXPECT_EQ(row[0], 288);         // 4.48 · 64 = 286.72
}

TEST(ActivationsTest, KeepsAScaleThatIsAPowerOfTwo) {
  std::vector<float> row = {-224};
  float scale = 0;
  QuantizeActivations(row, true, &scale);
  EXPECT_EQ(scale, 0.5F);
  EXPECT_EQ(row[0], -448);
}

TEST(ActivationsTest, RoundsToBF16) {
  std::vector<float> values = {1.00390625F, 1.01171875F, 3.3962e38F};
  RoundToBF16(values);
  EXPECT_THAT(values, ElementsAre(1, 1.015625F, std::numeric_limits<float>::infinity()));
}

}  // namespace
}  // namespace dsv3::quant

#include "quant/elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "quant/matmul.h"
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kTolerance = 4e-7;

class ElementwiseKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, ElementwiseKernel, EveryTarget(), TargetName);

// Whether the instruction set in use has fused multiply-add.
bool FusesProducts() {
  const float x = 1 + 0x1p-12F;
  float sum = -(1 + 0x1p-11F);
  AddScaled(x, &x, &sum, 1);
  return sum != 0;
}

std::vector<float> Gates() {
  std::vector<float> gates;
  for (float gate = -87; gate < 100; gate += 0.00731F) gates.push_back(gate);
  for (const float gate : {0.0F, -0.0F, 1e-40F, -1e-30F, 1e30F, 3.4e38F}) gates.push_back(gate);
  return gates;
}

std::vector<float> Silu(const std::vector<float>& gate, const std::vector<float>& up) {
  std::vector<float> out(gate.size());
  SiluProduct(gate.data(), up.data(), out.data(), out.size());
  return out;
}

TEST_P(ElementwiseKernel, MultipliesBySiluExactlyEnough) {
  const std::vector<float> gates = Gates();
  const std::vector<float> ups(gates.size(), 0.75F);
  const std::vector<float> out = Silu(gates, ups);
  for (std::size_t i = 0; i < gates.size(); ++i) {
    const double gate = gates[i];
    const double expected = gate / (1 + std::exp(-gate)) * 0.75;
    ASSERT_NEAR(out[i], expected, kTolerance * std::abs(expected) + 1e-44) << gates[i];
  }
}

TEST_P(ElementwiseKernel, MultipliesBySiluBeyondTheRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> out =
      Silu({-88, -104, -1000, -3e38F, kInfinity, nan, 1}, {1, 1, 1, 1, 1, 1, nan});
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(out[i], 0, 1e-35) << i;
  EXPECT_EQ(out[4], kInfinity);
  EXPECT_TRUE(std::isnan(out[5]));
  EXPECT_TRUE(std::isnan(out[6]));
}

TEST_P(ElementwiseKernel, GivesTheBitsOfTheScalarSilu) {
  if (!FusesProducts()) GTEST_SKIP() << "This instruction set has no fused multiply-add.";
  const std::vector<float> gates = Gates();
  const std::vector<float> ups(gates.size(), 1.1F);
  std::vector<float> expected(gates.size());
  SiluProductScalar(gates.data(), ups.data(), expected.data(), expected.size());
  EXPECT_EQ(Silu(gates, ups), expected);
}

// Wherever it lies: the end of an array is not another function.
TEST_P(ElementwiseKernel, GivesAValueTheSameBitsEverywhere) {
  const std::vector<float> gates = {-3.7F, 0.3F, 11.1F, -0.002F, 1.9F};
  for (const float gate : gates) {
    const float alone = Silu({gate}, {1.3F})[0];
    for (std::size_t size = 1; size < 40; ++size) {
      const std::vector<float> out =
          Silu(std::vector<float>(size, gate), std::vector<float>(size, 1.3F));
      EXPECT_THAT(out, testing::Each(alone)) << size;
    }
  }
}

TEST_P(ElementwiseKernel, SiluWorksInPlace) {
  std::vector<float> gate(37, 2.5F);
  const std::vector<float> up(37, 0.5F);
  const std::vector<float> expected = Silu(gate, up);
  SiluProduct(gate.data(), up.data(), gate.data(), gate.size());
  EXPECT_EQ(gate, expected);
}

std::vector<float> Scores(std::size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<float> scores(count);
  // Multiples of 2^-10, of which differences are exact.
  for (float& score : scores) score = static_cast<float>(random() % 80000) / 1024 - 20;
  return scores;
}

TEST_P(ElementwiseKernel, NormalizesScoresExactlyEnough) {
  for (const std::size_t count : {1U, 2U, 15U, 16U, 17U, 100U, 100003U}) {
    const std::vector<float> scores = Scores(count);
    const double largest = *std::ranges::max_element(scores);
    double sum = 0;
    for (const float score : scores) sum += std::exp(score - largest);
    std::vector<float> out = scores;
    SoftmaxInPlace(out);
    for (std::size_t i = 0; i < count; ++i) {
      const double expected = std::exp(scores[i] - largest) / sum;
      ASSERT_NEAR(out[i], expected, kTolerance * expected) << count << ' ' << i;
    }
  }
}

TEST_P(ElementwiseKernel, GivesTheBitsOfTheScalarSoftmax) {
  if (!FusesProducts()) GTEST_SKIP() << "This instruction set has no fused multiply-add.";
  for (std::size_t count = 0; count < 70; ++count) {
    std::vector<float> scores = Scores(count);
    if (count > 3) scores[count / 3] = -kInfinity;
    std::vector<float> expected = scores;
    SoftmaxScalar(expected);
    SoftmaxInPlace(scores);
    EXPECT_EQ(scores, expected) << count;
  }
}

TEST_P(ElementwiseKernel, GivesZeroForMinusInfinity) {
  std::vector<float> scores(19, -kInfinity);
  scores[17] = -5;
  SoftmaxInPlace(scores);
  EXPECT_EQ(scores[17], 1);
  EXPECT_EQ(std::ranges::count(scores, 0.0F), 18);
}

TEST_P(ElementwiseKernel, GivesNaNsForANaN) {
  for (const std::size_t at : {0U, 7U, 18U}) {
    std::vector<float> scores = Scores(19);
    scores[at] = std::numeric_limits<float>::quiet_NaN();
    SoftmaxInPlace(scores);
    EXPECT_TRUE(std::ranges::all_of(scores, [](float score) { return std::isnan(score); })) << at;
  }
  std::vector<float> masked(5, -kInfinity);
  SoftmaxInPlace(masked);
  EXPECT_TRUE(std::isnan(masked[0]));
}

}  // namespace
}  // namespace dsv3::quant

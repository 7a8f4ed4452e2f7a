#include "quant/exponentials.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

class ExponentialsKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, ExponentialsKernel, EveryTarget(), TargetName);

std::vector<double> Of(const std::vector<float>& x, double shift) {
  std::vector<double> out(x.size());
  Exponentials(x, shift, out.data());
  return out;
}

TEST_P(ExponentialsKernel, AreExactEnough) {
  std::vector<float> x;
  for (float value = -700; value <= 3; value += 0.0373F) x.push_back(value);
  const std::vector<double> out = Of(x, 3);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(x[i] - 3.0);
    ASSERT_NEAR(out[i] / expected, 1, 4e-16) << x[i];
  }
}

TEST_P(ExponentialsKernel, BeyondTheRange) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<double> out =
      Of({-infinity, -800, -742, std::numeric_limits<float>::quiet_NaN(), 0}, 0);
  EXPECT_EQ(out[0], 0);
  EXPECT_EQ(out[1], 0);
  EXPECT_NEAR(out[2], std::exp(-742.0), 1e-323);
  EXPECT_TRUE(std::isnan(out[3]));
  EXPECT_EQ(out[4], 1);
}

TEST_P(ExponentialsKernel, HaveTheSameBitsEverywhere) {
  const double alone = Of({-2.7F}, 0.3)[0];
  for (std::size_t size = 1; size < 40; ++size) {
    EXPECT_THAT(Of(std::vector<float>(size, -2.7F), 0.3), testing::Each(alone)) << size;
  }
}

TEST_P(ExponentialsKernel, AreAddedInTheOrderOfTheHeader) {
  for (const std::size_t count : {0U, 1U, 15U, 16U, 17U, 511U, 512U, 513U, 3000U}) {
    std::vector<float> x(count);
    for (std::size_t i = 0; i < count; ++i) x[i] = -0.37F * static_cast<float>(i % 101);
    const std::vector<double> values = Of(x, 0);
    std::vector<double> lanes(16);
    for (std::size_t i = 0; i < count; ++i) lanes[i % 16] += values[i];
    double sum = 0;
    for (const double lane : lanes) sum += lane;
    EXPECT_EQ(SumOfExponentials(x, 0), sum) << count;
  }
}

}  // namespace
}  // namespace dsv3::quant

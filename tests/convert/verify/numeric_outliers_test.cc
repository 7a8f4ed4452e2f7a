#include "convert/verify/numeric_outliers.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using ::testing::IsEmpty;

TEST(FindOutliersTest, LeavesWideAndSmallGroupsAlone) {
  const auto group = [](const std::vector<double>& logs) {
    std::vector<TensorMagnitude> tensors;
    for (const double log : logs) {
      tensors.push_back(
          {static_cast<std::uint32_t>(tensors.size()), "p", std::exp2(log), std::exp2(log + 3)});
    }
    return tensors;
  };
  EXPECT_THAT(FindOutliers(group({0, 20})), IsEmpty());
  EXPECT_THAT(FindOutliers(group({0, 1, 2, 3, 4, 5, 6, 7, 14})), IsEmpty());
  EXPECT_THAT(FindOutliers(group({0, 0.1, 0.2, 2.9})), IsEmpty());
  const std::vector<Outlier> found = FindOutliers(group({0, 0.1, 0.2, 0.3, 3.3, 0.2, -3.3}));
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].tensor, 4U);
  EXPECT_EQ(found[1].tensor, 6U);
  EXPECT_TRUE(found[0].by_rms);
  EXPECT_EQ(found[0].group_size, 7U);

  std::vector<TensorMagnitude> spike = group({0, 0.1, 0.2, 0.3});
  spike[2].absmax = 1e4;
  const std::vector<Outlier> by_absmax = FindOutliers(spike);
  ASSERT_EQ(by_absmax.size(), 1U);
  EXPECT_EQ(by_absmax[0].tensor, 2U);
  EXPECT_FALSE(by_absmax[0].by_rms);
  EXPECT_EQ(by_absmax[0].value, 1e4);
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/forward/router.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;

ForwardConfig Grouped(GroupScore score, std::uint64_t kept) {
  ForwardConfig config;
  config.group_score = score;
  config.topk_group = kept;
  return config;
}

float Sigmoid(double x) { return static_cast<float>(1 / (1 + std::exp(-x))); }

TEST(RouterTest, TakesTheBestAndSaysTheMargin) {
  const std::vector<float> logits = {0.5F, 2, -1, 1};
  const ExpertChoice choice = ChooseExperts({}, 1, 2, logits, {});
  EXPECT_THAT(choice.experts, ElementsAre(1, 3));
  EXPECT_FLOAT_EQ(choice.weights[0], Sigmoid(2));
  EXPECT_FLOAT_EQ(choice.weights[1], Sigmoid(1));
  EXPECT_NEAR(choice.margin, Sigmoid(1) - Sigmoid(0.5), 1e-6);
}

TEST(RouterTest, TakesTheLowerOfEqualOnesAndAllIfThereAreNoMore) {
  const std::vector<float> logits = {1, 1, 1};
  EXPECT_THAT(ChooseExperts({}, 1, 2, logits, {}).experts, ElementsAre(0, 1));
  EXPECT_EQ(ChooseExperts({}, 1, 2, logits, {}).margin, 0);
  EXPECT_EQ(ChooseExperts({}, 1, 3, logits, {}).margin, std::numeric_limits<float>::infinity());
}

TEST(RouterTest, BiasCountsInTheChoiceAlone) {
  const std::vector<float> logits = {2, 1, 0};
  const std::vector<float> bias = {-2, -1, 0};
  const ExpertChoice choice = ChooseExperts({}, 1, 1, logits, bias);
  EXPECT_THAT(choice.experts, ElementsAre(2));
  EXPECT_FLOAT_EQ(choice.weights[0], 0.5F);
}

TEST(RouterTest, WeightsAreNormedAndScaled) {
  ForwardConfig config;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = 2.5;
  const std::vector<float> logits = {0, 0, -9};
  EXPECT_THAT(ChooseExperts(config, 1, 2, logits, {}).weights, ElementsAre(1.25F, 1.25F));
}

TEST(RouterTest, KeepsTheGroupsWithTheLargestSumOfTwo) {
  // The best expert lies in a group whose best two are less than the other's.
  const std::vector<float> logits = {5, -5, -5, 1, 1, 1};
  const std::vector<float> bias(6, -0.9F);  // all choices are below what is masked with zero
  const ForwardConfig config = Grouped(GroupScore::kTopTwo, 1);
  EXPECT_THAT(ChooseExperts(config, 2, 2, logits, bias).experts, ElementsAre(3, 4));
}

TEST(RouterTest, KeepsTheGroupsWithTheLargestMaximum) {
  const std::vector<float> logits = {5, -5, -5, 1, 1, 1};
  ForwardConfig config = Grouped(GroupScore::kMax, 1);
  config.softmax_router = true;
  const ExpertChoice choice = ChooseExperts(config, 2, 2, logits, {});
  EXPECT_THAT(choice.experts, ElementsAre(0, 1));
  const double sum = std::exp(5) + 2 * std::exp(-5) + 3 * std::exp(1);
  EXPECT_NEAR(choice.weights[0], std::exp(5) / sum, 1e-6);
}

}  // namespace
}  // namespace dsv3::convert

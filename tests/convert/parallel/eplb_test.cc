#include "convert/parallel/eplb.h"

#include <algorithm>
#include <numeric>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::Gt;

using Load = std::vector<double>;
using Map = std::vector<std::uint32_t>;

const Load kFirstLayer = {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
const Load kSecondLayer = {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};

// The example of https://github.com/deepseek-ai/EPLB and its result.
TEST(RebalanceTest, GivesThePublishedExampleItsResult) {
  const EplbSizes sizes{.replicas = 16, .groups = 4, .nodes = 2, .gpus = 8};
  EXPECT_THAT(Rebalance(kFirstLayer, sizes).physical_to_logical,
              ElementsAre(5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1));
  EXPECT_THAT(Rebalance(kSecondLayer, sizes).physical_to_logical,
              ElementsAre(7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1));
}

// What the published program makes of its example's loads with other sizes.
TEST(RebalanceTest, BalancesOverAllGpusWhereNodesDoNotDivideTheGroups) {
  const EplbSizes sizes{.replicas = 16, .groups = 4, .nodes = 3, .gpus = 8};
  const Map first = {10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1};
  EXPECT_THAT(Rebalance(kFirstLayer, sizes).physical_to_logical, ElementsAreArray(first));
  EXPECT_THAT(Rebalance(kSecondLayer, sizes).physical_to_logical,
              ElementsAre(1, 10, 2, 4, 5, 11, 5, 0, 6, 7, 6, 3, 8, 8, 9, 7));
}

TEST(RebalanceTest, ReordersExpertsWithoutReplicas) {
  const EplbSizes sizes{.replicas = 12, .groups = 4, .nodes = 2, .gpus = 4};
  EXPECT_THAT(Rebalance(kFirstLayer, sizes).physical_to_logical,
              ElementsAre(5, 3, 7, 4, 8, 6, 10, 11, 2, 1, 0, 9));
}

TEST(RebalanceTest, CountsAndListsTheReplicasOfEachExpert) {
  const EplbLayer layer =
      Rebalance(kFirstLayer, {.replicas = 16, .groups = 4, .nodes = 2, .gpus = 8});
  EXPECT_THAT(layer.replica_count, ElementsAre(1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1));
  ASSERT_EQ(layer.logical_to_physical.size(), kFirstLayer.size());
  for (std::uint32_t expert = 0; expert < kFirstLayer.size(); ++expert) {
    EXPECT_EQ(layer.logical_to_physical[expert].size(), layer.replica_count[expert]);
    for (const std::uint32_t physical : layer.logical_to_physical[expert]) {
      EXPECT_EQ(layer.physical_to_logical[physical], expert);
    }
  }
}

TEST(RebalanceTest, TakesTheLowerIndexOfEqualLoads) {
  // Experts 0 and 1 get a second replica, so that 2 and 3 are the heavier ones.
  EXPECT_THAT(Rebalance(Load(4, 1.0), {.replicas = 6, .groups = 1, .nodes = 1, .gpus = 3})
                  .physical_to_logical,
              ElementsAre(2, 0, 3, 1, 0, 1));
  EXPECT_THAT(Rebalance(Load(4, 0.0), {.replicas = 4, .groups = 1, .nodes = 1, .gpus = 2})
                  .physical_to_logical,
              ElementsAre(0, 1, 2, 3))
      << "nothing tells the packs apart, so the first one is filled first";
  EXPECT_THAT(Rebalance(Load(4, 5.0), {.replicas = 4, .groups = 2, .nodes = 2, .gpus = 2})
                  .physical_to_logical,
              ElementsAre(0, 1, 2, 3))
      << "equal groups stay in order";
}

TEST(RebalanceTest, KeepsTheOrderOfManyEqualLoads) {
  const Map map = Rebalance(Load(64, 3.0), {.replicas = 64, .groups = 1, .nodes = 1, .gpus = 2})
                      .physical_to_logical;
  for (std::uint32_t i = 0; i < 32; ++i) {
    EXPECT_EQ(map[i], 2 * i);
    EXPECT_EQ(map[32 + i], 2 * i + 1);
  }
}

TEST(RebalanceTest, OneReplicaForEachGpuStaysInOrder) {
  EXPECT_THAT(Rebalance(Load{1, 9, 5}, {.replicas = 4, .groups = 1, .nodes = 1, .gpus = 4})
                  .physical_to_logical,
              ElementsAre(0, 1, 2, 1));
}

TEST(RebalanceTest, KeepsGroupsOnOneNode) {
  const EplbSizes sizes{.replicas = 24, .groups = 4, .nodes = 2, .gpus = 8};
  const Map map = Rebalance(kSecondLayer, sizes).physical_to_logical;
  const std::size_t group_size = kSecondLayer.size() / sizes.groups;
  std::vector<std::vector<bool>> nodes_of_group(sizes.groups, std::vector<bool>(sizes.nodes));
  for (std::size_t p = 0; p < map.size(); ++p) {
    nodes_of_group[map[p] / group_size][p / (map.size() / sizes.nodes)] = true;
  }
  for (const auto& nodes : nodes_of_group) {
    EXPECT_EQ(std::count(nodes.begin(), nodes.end(), true), 1);
  }
}

TEST(RebalanceTest, BalancesLargeSkewedLoads) {
  Load load(256);
  for (std::size_t i = 0; i < load.size(); ++i) {
    load[i] = 1e6 / static_cast<double>((i * 97 % 256) + 1);
  }
  const EplbSizes sizes{.replicas = 320, .groups = 8, .nodes = 8, .gpus = 64};
  const EplbLayer layer = Rebalance(load, sizes);
  EXPECT_THAT(layer.replica_count, Each(Gt(0U)));
  Load gpus(sizes.gpus, 0);
  for (std::size_t p = 0; p < sizes.replicas; ++p) {
    const std::uint32_t expert = layer.physical_to_logical[p];
    gpus[p / (sizes.replicas / sizes.gpus)] += load[expert] / layer.replica_count[expert];
  }
  const double mean = std::accumulate(gpus.begin(), gpus.end(), 0.0) / static_cast<double>(64);
  EXPECT_LT(*std::max_element(gpus.begin(), gpus.end()), 3 * mean);
  EXPECT_GT(load[0], 10 * mean) << "without replicas one GPU would have far more than its share";
}

}  // namespace
}  // namespace dsv3::convert

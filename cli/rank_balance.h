#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "convert/recipes/reshard_job.h"

namespace dsv3::cli {

// How evenly a quantity is spread over the ranks.
struct RankBalance {
  std::size_t largest = 0;  // positions in ReshardReport::ranks; of equal ones the first
  std::size_t smallest = 0;
  std::uint64_t total_bytes = 0;
  double mean_bytes = 0;
  double imbalance = 1;  // largest by mean; 1 is even
};

// Of report.ranks, which has at least one.
RankBalance BalanceOf(const convert::ReshardReport& report);

// Ranks that hold as much as each other.
struct RankClass {
  std::uint64_t bytes = 0;
  std::uint64_t parameters = 0;
  std::uint64_t experts = 0;
  std::vector<std::uint64_t> ranks;  // ascending
};

// By bytes, the largest first.
std::vector<RankClass> RankClasses(const convert::ReshardReport& report);

// The logical experts of an expert parallel rank in a layer, ascending, replicas once.
std::vector<std::uint64_t> ExpertsOfRank(const convert::ReshardReport& report, std::size_t layer,
                                         std::uint64_t ep_rank);

// Whether all layers with experts have the same map.
bool SameMapInAllLayers(const convert::ReshardReport& report);

// Smallest and largest number of replicas of an expert in any layer with experts.
struct ReplicaRange {
  std::uint64_t least = 1;
  std::uint64_t most = 1;
};
ReplicaRange ReplicasOf(const convert::ReshardReport& report);

}  // namespace dsv3::cli

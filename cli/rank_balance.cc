#include "cli/rank_balance.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace dsv3::cli {

using convert::RankReport;
using convert::ReshardReport;

RankBalance BalanceOf(const ReshardReport& report) {
  RankBalance balance;
  for (std::size_t i = 0; i < report.ranks.size(); ++i) {
    const std::uint64_t bytes = report.ranks[i].bytes;
    balance.total_bytes += bytes;
    if (bytes > report.ranks[balance.largest].bytes) balance.largest = i;
    if (bytes < report.ranks[balance.smallest].bytes) balance.smallest = i;
  }
  balance.mean_bytes =
      static_cast<double>(balance.total_bytes) / static_cast<double>(report.ranks.size());
  if (balance.mean_bytes > 0) {
    balance.imbalance =
        static_cast<double>(report.ranks[balance.largest].bytes) / balance.mean_bytes;
  }
  return balance;
}

std::vector<RankClass> RankClasses(const ReshardReport& report) {
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>, RankClass> classes;
  for (const RankReport& rank : report.ranks) {
    RankClass& each = classes[{rank.bytes, rank.parameters, rank.experts}];
    each.bytes = rank.bytes;
    each.parameters = rank.parameters;
    each.experts = rank.experts;
    each.ranks.push_back(rank.rank.rank);
  }
  std::vector<RankClass> sorted;
  for (auto each = classes.rbegin(); each != classes.rend(); ++each) {
    sorted.push_back(std::move(each->second));
  }
  return sorted;
}

std::vector<std::uint64_t> ExpertsOfRank(const ReshardReport& report, std::size_t layer,
                                         std::uint64_t ep_rank) {
  const std::vector<std::uint32_t>& map = report.expert_map.at(layer);
  const std::size_t held = map.size() / report.topology.ep;
  const auto first = map.begin() + static_cast<std::ptrdiff_t>(ep_rank * held);
  std::vector<std::uint64_t> experts(first, first + static_cast<std::ptrdiff_t>(held));
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  return experts;
}

bool SameMapInAllLayers(const ReshardReport& report) {
  const auto& maps = report.expert_map;
  for (std::size_t layer = report.first_moe_layer; layer < maps.size(); ++layer) {
    if (maps[layer] != maps[report.first_moe_layer]) return false;
  }
  return true;
}

ReplicaRange ReplicasOf(const ReshardReport& report) {
  ReplicaRange range{~std::uint64_t{0}, 0};
  std::vector<std::uint64_t> counts(report.topology.experts);
  for (std::size_t layer = report.first_moe_layer; layer < report.expert_map.size(); ++layer) {
    std::fill(counts.begin(), counts.end(), 0);
    for (const std::uint32_t expert : report.expert_map[layer]) ++counts.at(expert);
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    range.least = std::min(range.least, *least);
    range.most = std::max(range.most, *most);
  }
  return range;
}

}  // namespace dsv3::cli

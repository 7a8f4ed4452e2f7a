#include "convert/parallel/expert_load.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "convert/parallel/placement_file.h"

namespace dsv3::convert {
namespace {

// 1 where no rank has a load: then no rank waits.
double Imbalance(std::span<const double> loads) {
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  if (!(total > 0)) return 1;
  const double mean = total / static_cast<double>(loads.size());
  return *std::max_element(loads.begin(), loads.end()) / mean;
}

// The load that each expert parallel rank gets from one layer.
std::vector<double> LayerLoad(std::span<const std::uint32_t> map, std::span<const double> load,
                              std::uint64_t ep) {
  std::vector<std::uint64_t> replicas(load.size(), 0);
  for (const std::uint32_t expert : map) ++replicas.at(expert);
  std::vector<double> ranks(ep, 0);
  const std::size_t held = map.size() / ep;
  for (std::size_t slot = 0; slot < map.size(); ++slot) {
    ranks[slot / held] += load[map[slot]] / static_cast<double>(replicas[map[slot]]);
  }
  return ranks;
}

PlacementLoad LoadUnder(const ExpertPlacement& placement,
                        const std::vector<std::vector<double>>& loads, const Topology& topology) {
  PlacementLoad result;
  std::vector<double> totals(topology.pp * topology.ep, 0);  // by stage and ep rank
  double sum = 0;
  std::uint64_t layers = 0;
  for (std::uint64_t layer = 0; layer < loads.size(); ++layer) {
    if (loads[layer].empty()) continue;
    const std::vector<double> ranks = LayerLoad(placement.MapOf(layer), loads[layer], topology.ep);
    const std::uint64_t first = topology.StageOfLayer(layer) * topology.ep;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) totals[first + rank] += ranks[rank];
    const double imbalance = Imbalance(ranks);
    if (layers++ == 0 || imbalance > result.worst_layer_imbalance) {
      result.worst_layer_imbalance = imbalance;
      result.worst_layer = layer;
    }
    sum += imbalance;
  }
  if (layers > 0) result.mean_layer_imbalance = sum / static_cast<double>(layers);
  for (std::uint64_t stage = 0; stage < topology.pp; ++stage) {
    result.imbalance = std::max(
        result.imbalance, Imbalance(std::span(totals).subspan(stage * topology.ep, topology.ep)));
  }
  for (std::uint64_t rank = 0; rank < topology.world_size(); ++rank) {
    const Rank place = topology.RankAt(rank);
    result.ranks.push_back(totals[place.stage * topology.ep + place.ep_rank]);
  }
  return result;
}

}  // namespace

std::optional<ExpertLoad> ExpectedLoad(const PlacementOptions& options, const Topology& topology,
                                       const ModelConfig& config,
                                       const ExpertPlacement& placement) {
  if (options.expert_load.empty()) return std::nullopt;
  const std::vector<std::vector<double>> loads =
      ReadExpertLoad(options.expert_load, topology, config);
  const std::optional<ExpertPlacement> contiguous = PlacementOf({}, topology, config);
  return ExpertLoad{LoadUnder(contiguous.value(), loads, topology),
                    LoadUnder(placement, loads, topology)};
}

}  // namespace dsv3::convert

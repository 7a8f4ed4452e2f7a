#include "convert/parallel/expert_placement.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"
#include "convert/parallel/eplb.h"
#include "convert/parallel/placement_file.h"
#include "formats/error.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using Map = std::vector<std::uint32_t>;

// Physical p is logical p mod experts.
Map CountingMap(std::uint64_t experts, std::uint64_t physical) {
  Map map(physical);
  for (std::uint64_t p = 0; p < physical; ++p) map[p] = static_cast<std::uint32_t>(p % experts);
  return map;
}

// Rank g holds those physical experts of CountingMap whose number is g modulo ep, in ascending
// order.
Map RoundRobinMap(std::uint64_t experts, std::uint64_t physical, std::uint64_t ep) {
  Map map;
  map.reserve(physical);
  for (std::uint64_t rank = 0; rank < ep; ++rank) {
    for (std::uint64_t p = rank; p < physical; p += ep) {
      map.push_back(static_cast<std::uint32_t>(p % experts));
    }
  }
  return map;
}

[[noreturn]] void FailUsage(const std::string& message) { throw Error(ErrorCode::kUsage, message); }

void CheckOptions(const PlacementOptions& options, const Topology& topology,
                  const ModelConfig& config) {
  const bool has_load = !options.expert_load.empty();
  if (topology.experts == 0) {
    if (has_load || options.kind != PlacementKind::kContiguous) {
      FailUsage(fmt::format("{} places routed experts, but the model has none; leave it out",
                            has_load ? "--expert-load" : "--ep-placement"));
    }
    return;
  }
  if (has_load && options.kind != PlacementKind::kContiguous) {
    FailUsage(
        "--expert-load decides which rank holds which expert, and so does --ep-placement; leave "
        "out one of the two");
  }
  if (!has_load && options.nodes != 1) {
    FailUsage(
        fmt::format("--nodes {} is for balancing a load; give --expert-load FILE, too, or "
                    "leave --nodes out",
                    options.nodes));
  }
  if (!has_load) return;
  if (options.nodes == 0 || topology.ep % options.nodes != 0) {
    FailUsage(
        fmt::format("--nodes {} does not divide the {} expert parallel ranks (--ep); give "
                    "the number of machines that the ranks of --ep are spread over evenly",
                    options.nodes, topology.ep));
  }
  if (topology.experts % config.n_group != 0) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("config.json: n_group {} does not divide the {} routed experts, so "
                            "that --expert-load cannot be balanced; repair the config, or place "
                            "the experts with --ep-placement",
                            config.n_group, topology.experts),
                {.file = "config.json", .tensor = {}});
  }
}

// The map of every MTP layer. Files and loads cover the main layers alone.
Map MtpMap(const PlacementOptions& options, const Topology& topology) {
  return options.expert_load.empty() && options.kind == PlacementKind::kRoundRobin
             ? RoundRobinMap(topology.experts, topology.physical_experts, topology.ep)
             : CountingMap(topology.experts, topology.physical_experts);
}

std::vector<Map> BalancedMaps(const PlacementOptions& options, const Topology& topology,
                              const ModelConfig& config) {
  const EplbSizes sizes{.replicas = topology.physical_experts,
                        .groups = config.n_group,
                        .nodes = options.nodes,
                        .gpus = topology.ep};
  std::vector<Map> maps;
  for (const std::vector<double>& load : ReadExpertLoad(options.expert_load, topology, config)) {
    maps.push_back(load.empty() ? CountingMap(topology.experts, topology.physical_experts)
                                : Rebalance(load, sizes).physical_to_logical);
  }
  return maps;
}

std::vector<Map> MapsOf(const PlacementOptions& options, const Topology& topology,
                        const ModelConfig& config) {
  if (!options.expert_load.empty()) return BalancedMaps(options, topology, config);
  const Map counting = CountingMap(topology.experts, topology.physical_experts);
  std::vector<Map> maps(topology.layers, counting);
  switch (options.kind) {
    case PlacementKind::kContiguous:
      break;
    case PlacementKind::kRoundRobin: {
      const Map round_robin =
          RoundRobinMap(topology.experts, topology.physical_experts, topology.ep);
      for (std::uint64_t layer = 0; layer < topology.layers; ++layer) {
        if (IsMoeLayer(config, layer)) maps[layer] = round_robin;
      }
      break;
    }
    case PlacementKind::kFile: {
      std::vector<Map> read = ReadExpertLocation(options.file, topology, config);
      for (std::uint64_t layer = 0; layer < topology.layers; ++layer) {
        if (!read[layer].empty()) maps[layer] = std::move(read[layer]);
      }
      break;
    }
  }
  return maps;
}

}  // namespace

ExpertPlacement::ExpertPlacement(std::uint64_t ep, std::vector<std::vector<std::uint32_t>> maps,
                                 std::vector<std::uint32_t> mtp_map)
    : ep_(ep), physical_(mtp_map.size()), maps_(std::move(maps)), mtp_map_(std::move(mtp_map)) {}

std::span<const std::uint32_t> ExpertPlacement::MapOf(std::uint64_t layer) const {
  return layer < maps_.size() ? maps_[layer] : mtp_map_;
}

std::vector<std::uint32_t> ExpertPlacement::RanksOf(std::uint64_t layer,
                                                    std::uint64_t expert) const {
  const std::span<const std::uint32_t> map = MapOf(layer);
  const std::uint64_t held = physical_ / ep_;
  std::vector<std::uint32_t> ranks;
  for (std::uint64_t p = 0; p < physical_; ++p) {
    if (map[p] != expert) continue;
    ranks.push_back(static_cast<std::uint32_t>(p / held));
    p = p / held * held + held - 1;  // a second replica in the same rank adds no rank
  }
  return ranks;
}

std::vector<std::uint32_t> ExpertPlacement::ExpertsOf(std::uint64_t layer,
                                                      std::uint64_t ep_rank) const {
  const std::uint64_t held = physical_ / ep_;
  const std::span<const std::uint32_t> slots = MapOf(layer).subspan(ep_rank * held, held);
  std::vector<std::uint32_t> experts(slots.begin(), slots.end());
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  return experts;
}

std::optional<ExpertPlacement> PlacementOf(const PlacementOptions& options,
                                           const Topology& topology, const ModelConfig& config) {
  CheckOptions(options, topology, config);
  if (topology.experts == 0) return std::nullopt;
  return ExpertPlacement(topology.ep, MapsOf(options, topology, config), MtpMap(options, topology));
}

std::string ExpertLocationText(const ExpertPlacement& placement) {
  std::string text = "{\"physical_to_logical_map\":[\n";
  const auto& maps = placement.maps();
  for (std::size_t layer = 0; layer < maps.size(); ++layer) {
    formats::JsonWriter row(0);
    row.Uints(maps[layer]);
    text += row.text();
    text += layer + 1 < maps.size() ? ",\n" : "\n";
  }
  return text + "]}\n";
}

}  // namespace dsv3::convert

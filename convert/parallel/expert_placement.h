#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/parallel/topology.h"

// Which routed experts a rank holds.
namespace dsv3::convert {

enum class PlacementKind { kContiguous, kRoundRobin, kFile };

struct PlacementOptions {
  PlacementKind kind = PlacementKind::kContiguous;
  std::filesystem::path file;         // of kFile
  std::filesystem::path expert_load;  // empty: none; otherwise EPLB decides
  std::uint64_t nodes = 1;            // for EPLB
};

// Physical expert p is logical expert map[layer][p]; ep rank g holds the physical experts
// [g·P/ep, (g+1)·P/ep). A rank may hold two replicas of one expert.
class ExpertPlacement {
 public:
  // `maps`: one for each main layer, dense ones included (their maps mean nothing). `mtp_map`: of
  // the MTP layers. All have one length.
  ExpertPlacement(std::uint64_t ep, std::vector<std::vector<std::uint32_t>> maps,
                  std::vector<std::uint32_t> mtp_map);

  std::uint64_t physical_experts() const { return physical_; }
  // The map of any layer; the layers behind the main ones are MTP layers.
  std::span<const std::uint32_t> MapOf(std::uint64_t layer) const;
  // The ep ranks that hold an expert, ascending, each once.
  std::vector<std::uint32_t> RanksOf(std::uint64_t layer, std::uint64_t expert) const;
  // The logical experts of an ep rank, ascending, each once.
  std::vector<std::uint32_t> ExpertsOf(std::uint64_t layer, std::uint64_t ep_rank) const;
  const std::vector<std::vector<std::uint32_t>>& maps() const { return maps_; }

 private:
  std::uint64_t ep_;
  std::uint64_t physical_;
  std::vector<std::vector<std::uint32_t>> maps_;
  std::vector<std::uint32_t> mtp_map_;
};

// contiguous: physical p is logical p mod E. round-robin: ep rank g holds the logical experts e ≡ g
// (mod ep) of the E + R that p mod E counts through. A FILE {"physical_to_logical_map":
// [layers][physical]} (SGLang's --init-expert-location) gives it; a load {"logical_count":
// [layers][experts]} is balanced by EPLB (Rebalance) with the model's n_group. Round-robin also
// places the experts of MTP layers; a file and a load do not cover them, and they have p mod E.
// Nothing for a model without routed experts. Throws Error: kBadInput for a file that cannot be
// read, is another JSON, misses a layer, an expert or a slot, or names an expert that the model
// does not have; kUsage for options that contradict (a load and a placement, nodes that do not
// divide ep). Messages name file, layer and expert.
std::optional<ExpertPlacement> PlacementOf(const PlacementOptions& options,
                                           const Topology& topology, const ModelConfig& config);

// {"physical_to_logical_map":[[…],…]}, one line a layer: expert_location.json.
std::string ExpertLocationText(const ExpertPlacement& placement);

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/topology.h"

// The share of the routed experts' work that each rank can expect.
namespace dsv3::convert {

// The load of each rank under one placement. Loads are in the unit of the load file, such as
// tokens, over all main layers with routed experts; the load of an expert is shared evenly by its
// replicas.
struct PlacementLoad {
  std::vector<double> ranks;  // by rank of the whole deployment; ranks that share experts are equal
  double imbalance = 1;  // largest of a stage's ranks by their mean, of the worst stage; 1: even
  // The same within a layer, whose ranks wait for each other: the mean over layers, and the worst.
  double mean_layer_imbalance = 1;
  double worst_layer_imbalance = 1;
  std::uint64_t worst_layer = 0;
};

struct ExpertLoad {
  PlacementLoad before;  // contiguous, as without --expert-load
  PlacementLoad after;
};

// The load under a placement that --expert-load decided; nothing where `options` have no load. No
// load file has MTP layers, so they do not count. Throws Error as ReadExpertLoad.
std::optional<ExpertLoad> ExpectedLoad(const PlacementOptions& options, const Topology& topology,
                                       const ModelConfig& config, const ExpertPlacement& placement);

}  // namespace dsv3::convert

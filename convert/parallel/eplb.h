#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dsv3::convert {

// Expert parallel load balancing after DeepSeek's EPLB (https://github.com/deepseek-ai/EPLB).
struct EplbSizes {
  std::uint64_t replicas = 0;  // physical experts, a multiple of gpus
  std::uint64_t groups = 1;    // n_group of the router
  std::uint64_t nodes = 1;     // divides gpus
  std::uint64_t gpus = 1;
};

struct EplbLayer {
  std::vector<std::uint32_t> physical_to_logical;               // [replicas]
  std::vector<std::vector<std::uint32_t>> logical_to_physical;  // [experts][its replicas]
  std::vector<std::uint32_t> replica_count;                     // [experts]
};

// Balances one layer with `load` for each logical expert (finite, not negative). Where groups is a
// multiple of nodes: packs groups onto nodes, replicates the experts with the highest load a
// replica within each node, packs the replicas onto its GPUs; otherwise the same over all GPUs at
// once. GPU g holds the physical experts [g · replicas / gpus, (g + 1) · replicas / gpus). Greedy
// in each step; of equal loads the lower index comes first, of equally loaded packs the lower one.
EplbLayer Rebalance(std::span<const double> load, const EplbSizes& sizes);

}  // namespace dsv3::convert

#include "convert/parallel/eplb.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

namespace dsv3::convert {
namespace {

using Indices = std::vector<std::uint32_t>;

// All arithmetic is in float, as in the published algorithm, whose choices between nearly equal
// loads depend on it.
using Loads = std::vector<float>;

// The items of each pack, in the order in which they came.
using Packs = std::vector<Indices>;

// Gives each pack equally many items: the heaviest item to the least loaded pack with room, and so
// on. With one item a pack, item i is pack i.
Packs PackEvenly(std::span<const float> loads, std::uint64_t num_packs) {
  const std::size_t room = loads.size() / num_packs;
  Packs packs(num_packs);
  Indices order(loads.size());
  std::iota(order.begin(), order.end(), 0U);
  if (room == 1) {
    for (const std::uint32_t item : order) packs[item] = {item};
    return packs;
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return loads[a] > loads[b]; });
  // The least loaded pack first, of equals the lower index; full ones leave.
  using Entry = std::pair<float, std::uint32_t>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> open;
  for (std::uint32_t pack = 0; pack < num_packs; ++pack) open.emplace(0.0F, pack);
  for (const std::uint32_t item : order) {
    const auto [load, pack] = open.top();
    open.pop();
    packs[pack].push_back(item);
    if (packs[pack].size() < room) open.emplace(load + loads[item], pack);
  }
  return packs;
}

// The expert of each of `replicas`: first one replica of each expert, then one more, again and
// again, of the expert whose replicas have the highest load each.
Indices Replicate(std::span<const float> loads, std::uint64_t replicas) {
  Indices expert_of(loads.size());
  std::iota(expert_of.begin(), expert_of.end(), 0U);
  Indices count(loads.size(), 1);
  const auto later = [](const std::pair<float, std::uint32_t>& a,
                        const std::pair<float, std::uint32_t>& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::vector<std::pair<float, std::uint32_t>> heap;
  for (std::uint32_t i = 0; i < loads.size(); ++i) heap.emplace_back(loads[i], i);
  std::make_heap(heap.begin(), heap.end(), later);
  expert_of.reserve(replicas);
  while (expert_of.size() < replicas) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const std::uint32_t expert = heap.back().second;
    expert_of.push_back(expert);
    heap.back().first = loads[expert] / static_cast<float>(++count[expert]);
    std::push_heap(heap.begin(), heap.end(), later);
  }
  return expert_of;
}

// The experts of each node: whole groups, as evenly as possible by load.
Packs ExpertsOfNodes(std::span<const float> loads, std::uint64_t groups, std::uint64_t nodes) {
  const std::size_t group_size = loads.size() / groups;
  Loads group_loads;
  for (std::size_t begin = 0; begin < loads.size(); begin += group_size) {
    double sum = 0;
    for (const float load : loads.subspan(begin, group_size)) sum += static_cast<double>(load);
    group_loads.push_back(static_cast<float>(sum));
  }
  Packs experts;
  for (const Indices& node : PackEvenly(group_loads, nodes)) {
    Indices& of_node = experts.emplace_back();
    for (const std::uint32_t group : node) {
      for (std::size_t i = 0; i < group_size; ++i) {
        of_node.push_back(static_cast<std::uint32_t>(group * group_size + i));
      }
    }
  }
  return experts;
}

}  // namespace

EplbLayer Rebalance(std::span<const double> load, const EplbSizes& sizes) {
  const bool by_node = sizes.groups % sizes.nodes == 0;
  const std::uint64_t groups = by_node ? sizes.groups : 1;
  const std::uint64_t nodes = by_node ? sizes.nodes : 1;
  Loads loads;
  for (const double value : load) loads.push_back(static_cast<float>(value));

  EplbLayer layer;
  layer.logical_to_physical.resize(loads.size());
  layer.replica_count.assign(loads.size(), 0);
  for (const Indices& experts : ExpertsOfNodes(loads, groups, nodes)) {
    Loads node_loads;
    for (const std::uint32_t expert : experts) node_loads.push_back(loads[expert]);
    const Indices replicas = Replicate(node_loads, sizes.replicas / nodes);
    Indices count(experts.size(), 0);
    Indices number;  // of a replica among its expert's
    for (const std::uint32_t expert : replicas) number.push_back(count[expert]++);
    Loads replica_loads;
    for (const std::uint32_t expert : replicas) {
      replica_loads.push_back(node_loads[expert] / static_cast<float>(count[expert]));
    }
    for (std::size_t i = 0; i < experts.size(); ++i) {
      layer.replica_count[experts[i]] = count[i];
      layer.logical_to_physical[experts[i]].resize(count[i]);
    }
    for (const Indices& gpu : PackEvenly(replica_loads, sizes.gpus / nodes)) {
      for (const std::uint32_t replica : gpu) {
        const std::uint32_t expert = experts[replicas[replica]];
        layer.logical_to_physical[expert][number[replica]] =
            static_cast<std::uint32_t>(layer.physical_to_logical.size());
        layer.physical_to_logical.push_back(expert);
      }
    }
  }
  return layer;
}

}  // namespace dsv3::convert

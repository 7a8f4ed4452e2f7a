#include "tests/cli/rank_reports.h"

#include <string>
#include <vector>

namespace dsv3::testing {

convert::ReshardReport MadeUpReport(convert::Topology topology) {
  constexpr std::uint64_t kLayers = 6;
  constexpr std::uint64_t kExperts = 8;
  topology.layers = kLayers;
  topology.experts = kExperts;
  topology.physical_experts = kExperts + topology.redundant_experts;
  topology.moe_tp = topology.ranks_per_stage() / topology.ep;
  convert::ReshardReport report;
  report.topology = topology;
  report.first_moe_layer = 1;
  std::vector<std::uint32_t> map;
  for (std::uint32_t p = 0; p < topology.physical_experts; ++p) map.push_back(p % kExperts);
  report.expert_map.assign(kLayers, map);
  for (std::uint64_t i = 0; i < topology.world_size(); ++i) {
    convert::RankReport rank;
    rank.rank.rank = i;
    rank.rank.stage = i / topology.ranks_per_stage();
    rank.rank.stage_rank = i % topology.ranks_per_stage();
    rank.rank.tp_rank = rank.rank.stage_rank % topology.tp;
    rank.rank.dp_rank = rank.rank.stage_rank / topology.tp;
    rank.rank.ep_rank = rank.rank.stage_rank / topology.moe_tp;
    rank.rank.moe_tp_rank = rank.rank.stage_rank % topology.moe_tp;
    rank.bytes_by_kind = {2'000'000, 1'000'000, 3'000'000, 500'000, 400'000, 20'000'000, 100'000};
    for (const std::uint64_t bytes : rank.bytes_by_kind) rank.bytes += bytes;
    rank.parameters = rank.bytes - 7'000;
    rank.experts = topology.physical_experts / topology.ep * (kLayers - 1);
    rank.files = {"model-rank-" + std::to_string(i) + "-part-0.safetensors"};
    convert::OutputFileReport file;
    file.name = rank.files[0];
    file.bytes = rank.bytes + 4'000;
    file.tensors = 12;
    report.conversion.files.push_back(file);
    report.conversion.tensors += file.tensors;
    report.conversion.output_bytes += file.bytes;
    report.ranks.push_back(std::move(rank));
  }
  report.conversion.recipe = "reshard";
  report.conversion.copied_tensors = report.conversion.tensors;
  return report;
}

}  // namespace dsv3::testing

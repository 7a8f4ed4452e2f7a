#include "convert/parallel/topology.h"

#include <fmt/format.h>

#include "convert/parallel/nearest_sizes.h"
#include "convert/parallel/size_rules.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// Configs of known models have modest sizes once they are parsed; other configs may have any size.
void RequireModestSize(const ModelConfig& config) {
  const std::uint64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  if (layers <= kMaxExpectedTensors && config.n_routed_experts <= kMaxExpectedTensors &&
      layers * config.n_routed_experts <= kMaxExpectedTensors) {
    return;
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("config.json: describes {} layers with {} routed experts each; no model "
                          "of this family is that large, so the config is damaged",
                          layers, config.n_routed_experts),
              {.file = "config.json", .tensor = {}});
}

}  // namespace

ParallelOptions OptionsOf(ParallelPreset preset) {
  ParallelOptions options;
  options.tp = 4;
  options.dense_tp = 1;
  options.shared_expert_tp = 1;
  switch (preset) {
    case ParallelPreset::kDeepseekPrefill:
      options.dp = 8;
      options.ep = 32;
      options.redundant_experts = 32;
      break;
    case ParallelPreset::kDeepseekDecode:
      options.dp = 80;
      options.ep = 320;
      options.redundant_experts = 64;
      break;
  }
  return options;
}

Rank Topology::RankAt(std::uint64_t rank) const {
  Rank place;
  place.rank = rank;
  place.stage = rank / ranks_per_stage();
  place.stage_rank = rank % ranks_per_stage();
  place.tp_rank = place.stage_rank % tp;
  place.dp_rank = place.stage_rank / tp;
  place.ep_rank = place.stage_rank / moe_tp;
  place.moe_tp_rank = place.stage_rank % moe_tp;
  return place;
}

std::uint64_t Topology::StageOfLayer(std::uint64_t layer) const {
  if (layer >= layers) return pp - 1;
  // The last stage s with s · layers / pp < layer + 1.
  return ((layer + 1) * pp - 1) / layers;
}

std::uint64_t PaddedVocabulary(std::uint64_t vocab_size) {
  return (vocab_size + kVocabularyPadding - 1) / kVocabularyPadding * kVocabularyPadding;
}

Topology PlanTopology(const ParallelOptions& options, const ModelConfig& config) {
  if (!options.tp && !options.ep) {
    throw Error(ErrorCode::kUsage,
                "neither --tp nor --ep is given, so there is nothing to divide; give the sizes of "
                "the deployment, such as --tp 8 or --tp 4 --ep 32, or a --preset");
  }
  RequireModestSize(config);
  const Topology topology = CompleteSizes(options, config);
  const std::string problem = SizeProblem(topology, config);
  if (problem.empty()) return topology;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}; {}", problem, NearestSizesText(options, topology, config)));
}

}  // namespace dsv3::convert

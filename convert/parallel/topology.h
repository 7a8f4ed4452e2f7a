#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "convert/model/model_config.h"

// How the ranks of an engine share a model: sizes of the parallel groups, and each rank's place in
// them.
namespace dsv3::convert {

// The sizes that a user asks for; sizes that are not given follow from the others.
struct ParallelOptions {
  std::optional<std::uint64_t> tp = std::nullopt;  // attention: tensor parallel ranks
  std::optional<std::uint64_t> ep = std::nullopt;  // routed experts: expert parallel ranks
  std::optional<std::uint64_t> dp = std::nullopt;  // attention: data parallel ranks
  std::optional<std::uint64_t> pp = std::nullopt;  // pipeline stages
  // Tensor parallel sizes that may differ from tp.
  std::optional<std::uint64_t> dense_tp = std::nullopt;          // MLPs of the dense layers
  std::optional<std::uint64_t> shared_expert_tp = std::nullopt;  // shared experts
  std::optional<std::uint64_t> embed_tp = std::nullopt;          // embedding and head
  std::uint64_t redundant_experts = 0;  // physical experts beyond the logical ones
};

// A deployment of the DeepSeek-V3 technical report.
enum class ParallelPreset { kDeepseekPrefill, kDeepseekDecode };

// Prefill: TP 4, DP 8, EP 32, 32 redundant experts. Decode: TP 4, DP 80, EP 320, 64 redundant
// experts. In both, dense layers and the shared expert are not cut.
ParallelOptions OptionsOf(ParallelPreset preset);

// A rank's place.
struct Rank {
  std::uint64_t rank = 0;         // over all stages: stage · ranks_per_stage + stage_rank
  std::uint64_t stage = 0;        // pipeline stage
  std::uint64_t stage_rank = 0;   // r: within the stage
  std::uint64_t tp_rank = 0;      // r mod tp
  std::uint64_t dp_rank = 0;      // ⌊r / tp⌋
  std::uint64_t ep_rank = 0;      // ⌊r / moe_tp⌋
  std::uint64_t moe_tp_rank = 0;  // r mod moe_tp
};

struct Topology {
  std::uint64_t tp = 1;
  std::uint64_t ep = 1;
  std::uint64_t dp = 1;
  std::uint64_t pp = 1;
  std::uint64_t moe_tp = 1;  // ranks that share one routed expert: tp · dp / ep
  std::uint64_t dense_tp = 1;
  std::uint64_t shared_expert_tp = 1;
  std::uint64_t embed_tp = 1;
  std::uint64_t redundant_experts = 0;
  std::uint64_t layers = 0;            // main layers
  std::uint64_t experts = 0;           // logical ones; 0: no mixture of experts
  std::uint64_t physical_experts = 0;  // experts + redundant_experts

  std::uint64_t ranks_per_stage() const { return tp * dp; }
  std::uint64_t world_size() const { return ranks_per_stage() * pp; }

  Rank RankAt(std::uint64_t rank) const;
  // Layers ⌊s·layers / pp⌋ up to, not including, ⌊(s + 1)·layers / pp⌋ are stage s's.
  std::uint64_t FirstLayerOf(std::uint64_t stage) const { return stage * layers / pp; }
  // MTP layers (index `layers` and on), final norm and head are the last stage's, the embedding
  // the first's.
  std::uint64_t StageOfLayer(std::uint64_t layer) const;
  friend bool operator==(const Topology&, const Topology&) = default;
};

// The vocabulary is padded to a multiple of this before it is divided.
inline constexpr std::uint64_t kVocabularyPadding = 64;
std::uint64_t PaddedVocabulary(std::uint64_t vocab_size);

// Completes the options: tp and ep default to 1, dp to max(1, ⌊ep / tp⌋), pp to 1, the others to
// tp. Checks everything that must divide: tp the heads, tp · dp the ep ranks of a stage, ep the
// physical experts, moe_tp the experts' intermediate size, dense_tp, shared_expert_tp and embed_tp
// what they cut (the padded vocabulary) and the ranks of a stage, pp at most the layers, redundant
// experts at most 255 times the experts; and that world_size is at most 65536. Block boundaries are
// not checked here. Throws Error (kUsage) that names the numbers, what they must divide, and the
// nearest combinations of --tp, --ep and --dp (or values of the option) that do; kUsage without tp
// and ep as well. Options for modules that the model lacks (ep > 1 for a dense model) are refused,
// too.
Topology PlanTopology(const ParallelOptions& options, const ModelConfig& config);

}  // namespace dsv3::convert

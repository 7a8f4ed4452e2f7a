#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/topology.h"

// Which part of which tensor a rank holds, by tables of rules; docs/reshard.md shows them.
namespace dsv3::convert {

// The kind of a module in the model. It decides which group of ranks divides the module.
enum class ModuleKind {
  kEmbedding,     // embed_tokens, of the MTP layers, too
  kHead,          // lm_head, shared_head.head
  kAttention,     // q_proj, q_b_proj, kv_b_proj, o_proj; V4's wq_b, wo_a, wo_b and attn_sink
  kDenseMlp,      // gate, up, down of a dense layer
  kSharedExpert,  // gate, up, down of shared_experts
  kRoutedExpert,  // gate, up, down of experts.E
  kOther,         // latents, norms, router, indexer, eh_proj: every rank of the stage holds it
};
inline constexpr std::size_t kModuleKinds = 7;

// The last component of V4's attention sinks, one for each head.
inline constexpr std::string_view kAttentionSink = "attn_sink";

// Which dimension of the weight the ranks divide.
enum class SliceAxis { kNone, kRows, kCols };

// Which pipeline stages hold a tensor.
enum class StageRule {
  kFirst,         // the embedding
  kLast,          // final norm and head
  kFirstAndLast,  // an embedding that is the head, too (tie_word_embeddings)
  kLayer,         // that of its layer; MTP layers are the last stage's
  kAll,           // a tensor that no rule knows and no layer holds
};

// The place in the model that a tensor's name gives. The views are parts of the name.
struct TensorPlace {
  ModuleKind kind = ModuleKind::kOther;
  SliceAxis axis = SliceAxis::kNone;  // of the module's weight
  StageRule stage = StageRule::kAll;
  bool known = false;                  // whether a rule outside the routed experts names the module
  bool mtp = false;                    // in a layer behind the main ones
  std::optional<std::uint64_t> layer;  // nothing outside the layers
  std::optional<std::uint64_t> expert;  // of a routed expert; nothing where all are one tensor
  // The unit whose modules must be cut alike, for their products belong together:
  // "model.layers.3.self_attn", "….mlp", "….mlp.shared_experts", "….mlp.experts" (all experts of a
  // layer), "lm_head"; empty for kOther.
  std::string_view unit;
  std::string_view module;     // "q_b_proj"; empty where there is none
  std::string_view parameter;  // "weight", "weight_scale_inv"
};

// The place of a tensor by its Hugging Face name (weight, bias or any scale of a module); `prefix`
// is that of FindNamePrefix. Names that no rule knows are kOther.
TensorPlace PlaceOf(std::string_view name, std::string_view prefix, const ModelConfig& config);

// How many ways the weight of a module of this kind is cut; 1 for kOther.
std::uint64_t WaysOf(ModuleKind kind, const Topology& topology);

// --on-misaligned: what to do where the boundary between two ranks falls inside a block of scales.
enum class OnMisaligned { kError, kReplicateModule, kSubblock, kBF16 };

// How the ranks divide a tensor of the model. Positions are those in the catalog of the whole
// model; the views of `place` are parts of its names.
struct SlicedTensor {
  std::uint32_t tensor = 0;
  TensorPlace place;
  SliceAxis axis = SliceAxis::kNone;  // that the tensor itself is cut along
  std::uint64_t ways = 1;             // 1: all ranks that hold the module hold the whole tensor
  // Rows and columns of all parts together: the tensor's (scales: as they are after
  // Slicing::recut_block), and the padding of the vocabulary. `ways` divides that of the axis.
  MatrixShape padded;
  // Of a quantised weight and of its scales, both positions; else kNone. What else lies beside a
  // weight has neither.
  static constexpr std::uint32_t kNone = Catalog::kNone;
  std::uint32_t weight = kNone;
  std::uint32_t scale = kNone;
  quant::BlockShape block;  // of the weight's scales in the source
  // Of a quantised weight that is not FP8 with scales for blocks, and of its scales: neither is
  // ever recut or dequantised.
  bool coded = false;
  // The values that an element holds: more than one in packed codes, none in what lies beside them.
  std::uint64_t values = 1;
  bool to_bf16 = false;  // a weight that is dequantised; its scales are no SlicedTensor
};

struct Slicing {
  // In the catalog's order, without tensors that are dropped.
  std::vector<SlicedTensor> tensors;
  // The blocks to which the scales of every FP8 weight are cut, a divisor of their block; nothing
  // where the scales stay as they are.
  std::optional<quant::BlockShape> recut_block;
  std::vector<std::string> bf16_modules;        // for modules_to_not_convert, in order
  std::vector<std::string> replicated_modules;  // units that stay whole though the options cut them
  std::vector<std::string> dropped;             // tensors: those of MTP layers
};

struct SlicingOptions {
  OnMisaligned on_misaligned = OnMisaligned::kError;
  bool keep_mtp = true;
  // The rules of DeepSeek's own script: the vocabulary is not padded, and a scale is always cut
  // with its weight. Otherwise a scale that spans the whole dimension goes to every rank.
  bool deepseek = false;
};

// The weights of a checkpoint whose codes ranks can share: FP8, and of the other forms those whose
// codes lie in the rows of the matrix. Ordered by the weight's position.
std::vector<ScaledWeight> SliceableWeights(const Catalog& catalog, const ModelConfig& config,
                                           const ScaledWeights& found);

// Applies the rules to every tensor. `catalog` is that of the whole model; `scaled` its quantised
// weights whose codes can be cut (see SliceableWeights). Throws Error: kUsage where a boundary
// falls inside a block or a packed word (kError), naming tensor, row or column, block and the ways
// out, where kSubblock cannot serve the scales, and where the
// vocabulary would need padding, which the deepseek format does not have; kBadInput for tensors
// that cannot be cut: fused or packed experts whose group divides them, a dimension that a group
// does not divide, an expert that the config does not have, and a matrix that no rule knows in a
// layer whose weights are cut.
Slicing PlanSlicing(const Catalog& catalog, const ModelConfig& config,
                    const std::vector<ScaledWeight>& scaled, const Topology& topology,
                    const SlicingOptions& options);

// The part `part` of `ways` of a tensor, in elements of the tensor itself; all parts have one
// shape. Reaches beyond the tensor's own rows where the part holds padding, which is zeros.
Box BoxOf(const SlicedTensor& tensor, std::uint64_t part);

// The part that a rank holds if it holds any: `ways` consecutive ranks of a stage hold the parts.
std::uint64_t PartOf(const SlicedTensor& tensor, const Rank& rank);

// The ranks that hold part `part`, ascending. `placement` is that of the topology (Error kInternal
// without one where routed experts have several ep ranks).
std::vector<std::uint32_t> RanksOf(const SlicedTensor& tensor, std::uint64_t part,
                                   const Topology& topology,
                                   const std::optional<ExpertPlacement>& placement);

}  // namespace dsv3::convert

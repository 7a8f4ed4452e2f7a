#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/topology.h"
#include "convert/plan/box.h"
#include "convert/plan/catalog.h"

// Which part of which tensor a rank holds, by tables of rules.
namespace dsv3::convert {

// The unit of the model that a tensor belongs to. Modules that must be cut alike share a unit.
enum class ModuleKind {
  kEmbedding,     // embed_tokens, of the MTP layers, too
  kHead,          // lm_head, shared_head.head
  kAttention,     // q_proj, q_b_proj, kv_b_proj, o_proj
  kDenseMlp,      // gate, up, down of a dense layer
  kSharedExpert,  // gate, up, down of shared_experts
  kRoutedExpert,  // gate, up, down of experts.E
  kOther,         // latents, norms, router, indexer, eh_proj: every rank of the stage holds it
};
inline constexpr std::size_t kModuleKinds = 7;

// Which dimension of the weight the ranks divide.
enum class SliceAxis { kNone, kRows, kCols };

// What a name says.
struct TensorPlace {
  ModuleKind kind = ModuleKind::kOther;
  SliceAxis axis = SliceAxis::kNone;
  std::optional<std::uint64_t> layer;   // nothing outside the layers
  std::optional<std::uint64_t> expert;  // of a routed expert
  bool mtp = false;                     // in a layer behind the main ones
  // "self_attn", "mlp", "mlp.shared_experts", "mlp.experts.7" with the layer before it: names the
  // unit; empty for kOther.
  std::string unit;
  std::string_view module;  // "q_b_proj"; a view into the name, empty where there is none
};

// By Hugging Face name (weight, bias or any scale of a module); `prefix` is FindNamePrefix's.
TensorPlace PlaceOf(std::string_view name, std::string_view prefix, const ModelConfig& config);

// How many ways a module of a unit is cut.
std::uint64_t WaysOf(const TensorPlace& place, const Topology& topology);
// Which of them a rank holds.
std::uint64_t PartOf(const TensorPlace& place, const Topology& topology, const Rank& rank);

// --on-misaligned: what to do where the boundary between two ranks falls inside a block of scales.
enum class OnMisaligned { kError, kReplicateModule, kSubblock, kBF16 };

// How a tensor of the model is shared out. Positions are those in the catalog of the whole model.
struct SlicedTensor {
  std::uint32_t tensor = 0;
  TensorPlace place;
  std::uint64_t ways = 1;  // 1: not cut
  MatrixShape padded;      // with the vocabulary's padding
  // Of an FP8 weight and of its scales, else PlannedTensor::kNone.
  std::uint32_t weight = UINT32_MAX;
  std::uint32_t scale = UINT32_MAX;
  quant::BlockShape block;  // of the weight's scales in the source
  bool to_bf16 = false;     // a weight that is dequantised; its scale is dropped
};

struct Slicing {
  std::vector<SlicedTensor>
      tensors;  // in the model catalog's order; those that are dropped are not
  // What the scales of every FP8 weight are cut to; nothing: they stay.
  std::optional<quant::BlockShape> recut_block;
  std::vector<std::string> bf16_modules;        // for modules_to_not_convert
  std::vector<std::string> replicated_modules;  // units that stay whole though the options cut them
  std::vector<std::string> dropped;             // tensors: MTP layers
};

struct SlicingOptions {
  OnMisaligned on_misaligned = OnMisaligned::kError;
  bool keep_mtp = true;
  bool pad_vocabulary = true;
};

// Applies the rules to every tensor. `catalog` is that of the whole model; `scaled` its FP8
// weights. Throws Error: kUsage where a boundary falls inside a block (kError), naming tensor,
// rows, block and the ways out; kBadInput for what cannot be cut: fused or packed experts whose
// routed experts are cut, a dimension that a group does not divide.
Slicing PlanSlicing(const Catalog& catalog, const ModelConfig& config,
                    const std::vector<ScaledWeight>& scaled, const Topology& topology,
                    const SlicingOptions& options);

// The part `part` of `ways` of a tensor, in elements of the tensor itself: of a scale, the scales
// of the weight's part. Beyond the tensor's own rows where the part holds padding.
Box BoxOf(const SlicedTensor& tensor, const formats::Shape& shape, std::uint64_t part);

// The ranks that hold part `part`, ascending.
std::vector<std::uint32_t> RanksOf(const SlicedTensor& tensor, std::uint64_t part,
                                   const Topology& topology,
                                   const std::optional<ExpertPlacement>& placement);

}  // namespace dsv3::convert

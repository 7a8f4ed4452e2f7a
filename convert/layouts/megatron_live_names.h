#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "convert/model/model_config.h"
#include "formats/shape.h"

// What a rank of Megatron-Core calls its tensors, and how a tensor is cut for tensor parallel
// ranks. Pure and thread-safe.
namespace dsv3::convert {

enum class MegatronCut {
  kWhole,
  kRows,
  kColumns,
  kGateUp,  // rows of gate and rows of up, one below the other
};

// How the tensor of this name is cut; `shape` is that of a rank's slice, which says it for the
// down-projections of attention: up to 0.13 their rows are cut, later they are not.
MegatronCut MegatronCutOf(std::string_view name, const formats::Shape& shape,
                          const ModelConfig& config);

// "decoder.layers.3." with another number: the layer in the whole model.
std::optional<std::uint64_t> MegatronLayer(std::string_view name);
std::string WithMegatronLayer(std::string_view name, std::uint64_t layer);

// The same for an expert: "….mlp.experts.linear_fc1.weight3", "….mlp.experts.local_experts.3.…".
std::optional<std::uint64_t> MegatronExpert(std::string_view name);
std::string WithMegatronExpert(std::string_view name, std::uint64_t expert);

}  // namespace dsv3::convert

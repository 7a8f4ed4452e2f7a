#pragma once

#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

// Hugging Face names, with a tensor for each expert or with those of transformers 5: all experts of
// a layer in mlp.experts.gate_up_proj [experts, gate and up, columns] and mlp.experts.down_proj,
// and their scales in gate_up_proj_scale_inv and down_proj_scale_inv.
namespace dsv3::convert {

// Variant: "fused", for the experts of a layer in two tensors.
const LayoutTable& TransformersNames();

// ReadLayout with these names, for the tensors that the config predicts and those of their scales
// that the checkpoint has. Scales of fused experts whose blocks hold rows of gate and up are an
// Error (kBadInput), since they cannot be parted.
LayoutReading ReadTransformersNames(const ModelConfig& config,
                                    const std::vector<StackTensor>& stack);

// WriteLayout with fused experts; `model` may hold scales. Error (kBadInput) as above.
std::vector<ComposedTensor> WriteFusedExperts(const ModelConfig& config,
                                              const std::vector<StackTensor>& model);

}  // namespace dsv3::convert

#pragma once

#include "convert/layouts/layout_table.h"

// Hugging Face names, with a tensor for each expert or with those of transformers 5: all experts of
// a layer in mlp.experts.gate_up_proj [experts, gate and up, columns] and mlp.experts.down_proj,
// and their scales in gate_up_proj_scale_inv and down_proj_scale_inv.
namespace dsv3::convert {

// Variant: "fused", for the experts of a layer in two tensors.
const LayoutTable& TransformersNames();

}  // namespace dsv3::convert

#pragma once

#include "convert/layouts/layout_table.h"

// The names that MindSpore Transformers' mcore networks give to tensors. RoPE rows are in Hugging
// Face's order.
namespace dsv3::convert {

// As the converter wrote them up to 1.7.0-beta3. Variants:
// - "local-experts": a tensor for each expert, gate and up together
// - "final-norm": the first name of the norm behind the last layer
const LayoutTable& MindformersMcoreV1Names();

// As written since 1.7.0: gate and up of dense and shared MLPs take turns, row by row. Variant:
// - "qkv-concat": attention as networks with mla_qkv_concat save it after training
const LayoutTable& MindformersMcoreV2Names();

// The same from networks without use_interleaved_weight_layout_mlp: gate lies before up, as in v1.
// Names and shapes are the same.
const LayoutTable& MindformersMcoreV2ContiguousNames();

}  // namespace dsv3::convert

#pragma once

#include "convert/layouts/layout_table.h"

// The names that MindSpore Transformers' research/deepseek3 gives to tensors; its networks want the
// RoPE rows of each head sorted.
namespace dsv3::convert {

// Of the training network, in grouped matrix products. Variant:
// - "bmm": experts and router as without grouped matrix products
const LayoutTable& MindformersTrainNames();

// Of the inference network. Variants:
// - "train2infer": what deepseek3_train2infer.py leaves under the training network's names
// - "w8a8": quantised weights (kW8A8Variant of mindformers_w8a8_names.h), with what is beside them
const LayoutTable& MindformersInferNames();

}  // namespace dsv3::convert

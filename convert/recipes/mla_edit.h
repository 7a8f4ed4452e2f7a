#pragma once

#include "convert/open/open_model.h"
#include "convert/recipes/model_edit.h"

namespace dsv3::convert {

// --mla split: each kv_b_proj becomes two tensors, as engines use it whose attention works on the
// latent vectors: k_b_proj.weight [heads · qk_nope_head_dim, kv_lora_rank] has the rows of the keys
// of all heads, v_b_proj.weight [heads · v_head_dim, kv_lora_rank] those of the values. Scales are
// cut alike, so FP8 weights keep their codes. Entries of the config that name kv_b_proj name both.
//
// Throws Error (kBadInput): a model without kv_b_proj or with an unknown model_type; a scale block
// that lies across the border between a head's keys and values, or between two heads; kv_b_proj in
// a quantised form other than FP8 with scales.
void SplitKvB(const OpenedModel& model, ModelEdit& edit);

}  // namespace dsv3::convert

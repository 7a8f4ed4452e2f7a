#pragma once

#include "convert/layouts/layout_table.h"

// The names that Megatron-Core gives to tensors, in its distributed checkpoints (torch_dist) and in
// the state dicts of its modules.
namespace dsv3::convert {

// Variants, for WriteLayout:
// - "local": norms apart from the linear layer behind them, as without Transformer Engine
// - "homogeneous": all main layers in one tensor
// - "singleton": a tensor for each expert, gate and up apart (singleton_local_shards)
// - "fused-down": q_a_proj and kv_a_proj_with_mqa in one tensor (mla_down_proj_fusion)
// - "live": experts as the modules of TEGroupedMLP call them
// - "sequential": experts as the modules of SequentialMLP call them
// - "fsdp": gate and up apart, experts by number (fsdp_dtensor)
// - "live-mtp": the block of an MTP layer as its module calls it
const LayoutTable& MegatronNames();

}  // namespace dsv3::convert

#pragma once

#include "convert/layouts/layout_table.h"

// The names that torchtitan's deepseek_v3 gives to tensors.
namespace dsv3::convert {

// Variants, for WriteLayout; without one it writes the names of 2026-04 and later:
// - "output": the head's name before 2026-04
// - "experts": the first names of experts and the router's bias ("moe.experts.w1")
// - "experts-efd": the second names of experts ("moe.experts.w1_EFD")
const LayoutTable& TorchtitanNames();

}  // namespace dsv3::convert

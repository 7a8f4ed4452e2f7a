#pragma once

#include "convert/catalog/catalog.h"
#include "convert/catalog/name_pattern.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// The tensors of the checkpoint that is converted of which no tensor of the plan is made, by the
// patterns of their names, and what the plan itself says was not read (Plan::not_read). A second
// copy of a tensor that is taken is not among them.
PatternCounts DroppedTensors(const Plan& plan, const Catalog& catalog);

}  // namespace dsv3::convert

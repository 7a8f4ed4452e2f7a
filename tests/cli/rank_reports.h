#pragma once

#include "convert/recipes/reshard_job.h"

namespace dsv3::testing {

// A report of a model of 6 layers, the first one dense, with 8 experts, cut for `topology`, whose
// layers and experts are set here. The map is contiguous; each kind of module has bytes of its own,
// and every rank loads as much as the others.
convert::ReshardReport MadeUpReport(convert::Topology topology);

}  // namespace dsv3::testing

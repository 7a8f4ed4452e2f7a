#pragma once

#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/run_plan.h"
#include "convert/model/scaled_weights.h"

namespace dsv3::convert {

// The preflight of a GGUF file that is made of these quantised weights: reads all scales, and
// compares weight_shape with the codes. `kept` are weights of four bits that stay what they are.
// Throws Error (kBadInput) as CheckScales and CheckWeightShapes do, and naming tensor, row and
// column of the first scale of a weight that becomes Q4_0 which is not an F16.
SideDigests CheckGgufWeights(const Catalog& catalog, const std::vector<ScaledWeight>& weights,
                             const std::vector<ScaledWeight>& kept, bool sha256,
                             const PreflightRun& run, ProgressSink& progress,
                             const StopToken& stop);

}  // namespace dsv3::convert

#pragma once

#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/run_plan.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/plan.h"

// Biases that static W8A8 of msmodelslim keeps among the integers beside its codes.
namespace dsv3::convert {

// X.quant_bias takes back what X.input_offset adds to the products of a row: minus the offset times
// the sum of the row's codes. Where the module has a bias, or its activations were shifted to leave
// out outliers, it has that bias / deq_scale, too, which weights alone cannot hold. Reads the codes
// that have a quant_bias beside them, in files that the run is to make. Throws Error (kBadInput) at
// the first bias, naming its tensor and row.
void RefuseFoldedBiases(const Catalog& catalog, const Plan& plan,
                        const std::vector<ScaledWeight>& weights, const PreflightRun& run,
                        ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert

#pragma once

#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/run_plan.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/plan.h"

// Biases that static W8A8 of msmodelslim keeps among the integers beside its codes.
namespace dsv3::convert {

// X.quant_bias takes back what X.input_offset adds to the products of a row, minus the offset times
// the sum of the row's codes, and what the bias of the norm before it adds (ShiftedNorm), minus the
// products of codes and that bias / X.input_scale. The latter was made of the weights before they
// were quantised, so it may differ by what that rounded: a step of each weight at most. Without
// both, weights and norm give the same outputs. What is left beyond them is a bias of the module,
// which weights alone cannot hold. Reads the codes that have a quant_bias beside them, in files
// that the run is to make; `of_all_files`: in all. Throws Error (kBadInput) at the first bias,
// naming its tensor and row, and for a shift that a layer behind the norm does not take back.
void RefuseFoldedBiases(const Catalog& catalog, const Plan& plan,
                        const std::vector<ScaledWeight>& weights, const PreflightRun& run,
                        ProgressSink& progress, const StopToken& stop, bool of_all_files = false);

}  // namespace dsv3::convert

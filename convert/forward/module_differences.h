#pragma once

#include <vector>

#include "convert/forward/difference.h"
#include "convert/forward/weight_comparison.h"

// What a comparison found, as reports have it; an internal part of forward.h.
namespace dsv3::convert {

// In the order of execution. Reads the tensors that differ once or twice more. A tensor that
// differs on some ranks alone is there once for each of these; of copies that several ranks hold
// the first rank is named. Of ranks whose copies differ from each other, and no other model, those
// are wrong that have not the digest of layout.json; where that does not decide, those that differ
// from the first one's.
std::vector<ModuleDifference> FindModuleDifferences(const WeightComparison& comparison);

}  // namespace dsv3::convert

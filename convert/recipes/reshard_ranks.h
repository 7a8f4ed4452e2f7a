#pragma once

#include <vector>

#include "convert/recipes/reshard_job.h"
#include "convert/recipes/reshard_tensors.h"

// What each rank loads. Internal to the reshard recipe.
namespace dsv3::convert {

// For every rank its place, bytes, parameters and experts; without its files.
std::vector<RankReport> RankReports(const SharedModel& shared,
                                    const std::vector<RankTensor>& tensors);

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/job/output_state.h"
#include "convert/job/run_plan.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

// The description of a job that a run compares with its output directory.
namespace dsv3::convert {

// The files of a job that one run makes.
struct RunAssignment {
  RunId run;
  // Weight files that it makes where they are not complete, positions in Plan::files, ascending.
  std::vector<std::size_t> files;
  bool side_files = true;  // whether it writes these too
  bool may_end = true;     // whether it completes the job when no weight file is missing
  bool must_end = false;   // --finish
};

// Throws Error (kUsage) for options that contradict each other.
RunAssignment AssignmentOf(const Plan& plan, const RecipeHooks& hooks, const RunOptions& run);

// 0 where the file is gone.
std::uint64_t SideFileBytes(const PlannedSideFile& side);

OutputJob DescribeJob(const ModelTensors& source, const Plan& plan, const RecipeHooks& hooks,
                      const RunOptions& run, const RunAssignment& assignment);

}  // namespace dsv3::convert

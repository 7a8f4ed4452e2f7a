#pragma once

#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

// Rank shards → the checkpoint that they were made from.
namespace dsv3::convert {

inline constexpr char kMerge[] = "merge";

// Each shard of the model under its own header, byte for byte, with index and config. Fills all of
// the plan; the side files are those of the rank directory, and with `all_side_files` also what is
// left behind otherwise. The model must be one of rank shards, or of the demo's
// files.
Plan PlanMerge(const OpenedModel& model, bool all_side_files = false);

// What the merged checkpoint is not as in the original, in sentences; empty where it is the
// original.
std::vector<std::string> DifferencesFromOriginal(const OpenedModel& model);

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <vector>

#include "convert/plan/plan.h"
#include "convert/recipes/reshard_job.h"
#include "convert/recipes/reshard_tensors.h"

// Which files the ranks' tensors go to. Internal to the reshard recipe.
namespace dsv3::convert {

struct RankFiles {
  std::vector<PlannedFile> files;  // sorted by name
  // For each rank the positions in `files` that it loads, ascending.
  std::vector<std::vector<std::uint32_t>> files_of_rank;
};

// Fills files in the order of the tensors. With kRank each rank has files of its own; with
// kComponent each tensor is in one file: experts by the first ep rank that holds them, other
// modules by the part that they are, what is not cut in a common one. Parts begin at the same
// tensor for all: where any file would have more than `max_shard_bytes` of tensors, all begin a new
// one (PlannedFile::group counts them), but a file's own name counts the parts in which it has
// tensors. A unit that is larger has a file alone. Throws Error (kBadInput) for a rank without any
// tensor.
RankFiles PlanRankFiles(const SharedModel& shared, const std::vector<RankTensor>& tensors,
                        RankFormat format, RankGrouping grouping, std::uint64_t max_shard_bytes);

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/open/model_files.h"
#include "convert/open/open_model.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/slicing.h"
#include "convert/parallel/topology.h"
#include "convert/plan/plan.h"
#include "convert/recipes/reshard_job.h"
#include "convert/recipes/reshard_tensors.h"
#include "convert/stream/record.h"
#include "formats/finding.h"

// A whole model → rank shards.
namespace dsv3::convert {

inline constexpr char kReshard[] = "reshard";
inline constexpr char kExpertLocationName[] = "expert_location.json";

struct ReshardPlan {
  Plan plan;
  RankFormat format = RankFormat::kHfRank;
  RankGrouping grouping = RankGrouping::kRank;
  OnMisaligned on_misaligned = OnMisaligned::kError;
  Topology topology;
  std::optional<ExpertPlacement> placement;
  std::optional<ExpertLoad> expert_load;  // with --expert-load
  Slicing slicing;
  std::vector<ScaledWeight> dequantized;  // FP8 weights that become BF16
  std::vector<RankTensor> tensors;
  std::vector<std::string_view> rules;  // by position in slicing.tensors: LayoutTensor::rule
  // For each rank the positions in plan.files that it loads, ascending.
  std::vector<std::vector<std::uint32_t>> files_of_rank;
  std::vector<RankReport> ranks;
  std::vector<std::string> dropped;  // tensors of the model that no rank holds
  formats::Findings warnings;
};

// Throws Error (kUsage) for options that contradict each other, whatever the model.
void CheckReshardOptions(const ReshardOptions& options);

// Plans every rank's files, and config.json and expert_location.json beside them. Fills all of the
// plan; with `all_side_files` it copies also what is left behind otherwise. `model` must outlive
// the result. Throws Error as its parts do; kUsage for what `format` does not have, kBadInput for a
// tensor that it has no name for.
ReshardPlan PlanReshard(const OpenedModel& model, const ReshardOptions& options,
                        bool all_side_files = false);

// The weight files that the ranks of --ranks load, positions in plan.files, ascending. Throws Error
// (kUsage) for a rank that there is not.
std::vector<std::size_t> FilesOfRanks(
    const ReshardPlan& reshard, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& ranks);

// layout.json once all weight files are made. `records` are those of all files.
std::string LayoutText(const ReshardPlan& reshard, const OpenedModel& model,
                       const ModelFiles& files, const std::string& fingerprint,
                       const std::unordered_map<std::string, FileRecord>& records);

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/execute/record.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/slicing.h"
#include "convert/parallel/topology.h"
#include "convert/plan/plan.h"
#include "convert/recipes/whole_model.h"
#include "convert/reshard_job.h"
#include "formats/rank_layout.h"

// A whole model → rank shards.
namespace dsv3::convert {

struct ReshardPlan {
  Plan plan;
  Topology topology;
  std::optional<ExpertPlacement> placement;
  Slicing slicing;
  // All that layout.json tells but digests, file hashes and the job's fingerprint.
  formats::RankLayout layout;
  // For each rank the positions in plan.files that it loads, ascending.
  std::vector<std::vector<std::uint32_t>> files_of_rank;
  std::string config_text;  // of OUT/config.json
};

// Plans every rank's files. Fills plan.files, options, source_digests, shared_reads and totals;
// side files are the caller's. Throws Error as its parts do.
ReshardPlan PlanReshard(const WholeModel& model, const ReshardOptions& options);

// Completes layout.json once all weight files are made.
std::string LayoutText(const ReshardPlan& reshard, const std::string& fingerprint,
                       const std::unordered_map<std::string, FileRecord>& records);

}  // namespace dsv3::convert

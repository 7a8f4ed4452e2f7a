#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/recipes/conversion.h"

// What all conversions of one checkpoint into another share.
namespace dsv3::convert {

// Throws Error (kUsage) for what no run can keep to.
void CheckRunOptions(const RunOptions& run);

// Opens the checkpoint `input` for a conversion that writes `output`: what an unfinished run of it
// freed is known from there. Throws Error as RequirePlaces and OpenModel do, and kUsage where
// rank shards were to be deleted.
OpenedModel OpenForJob(const std::filesystem::path& input, const std::filesystem::path& output,
                       const RunOptions& run);

// Which of the source's side files a conversion copies.
struct SideFileChoice {
  bool all = false;  // --side-files all
  // Whether the weights' numbers change their form, so that files which describe how they are
  // quantised (hf_quant_config.json and others) are no longer true.
  bool changes_quantization = false;
};

// Fills plan.side_files with the source's side files, `config` in place of its config.json, and
// plan.left_behind with those that are not copied.
void PlanSideFiles(const OpenedModel& source, const std::string& config,
                   const SideFileChoice& choice, Plan& plan);

// Counts the plan's tensors and bytes, and those of `catalog`, which the plan reads, and takes the
// source's warnings. `converted` of the
// source's tensors are converted, and all tensors of the output that are not made of these are
// copied.
void ReportPlanned(const OpenedModel& source, const Catalog& catalog, const Plan& plan,
                   std::uint64_t converted, ConversionReport& report);

}  // namespace dsv3::convert

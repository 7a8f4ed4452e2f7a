#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "convert/open/source.h"
#include "convert/plan/plan.h"
#include "convert/recipes/conversion.h"

// What all conversions of one checkpoint into another share.
namespace dsv3::convert {

// Throws Error (kUsage) for what no run can keep to.
void CheckRunOptions(const RunOptions& run);

// Opens the checkpoint `input` for a conversion that writes `output`: what an unfinished run of it
// freed is known from there. Throws Error as RequirePlaces and OpenSource do.
Source OpenForJob(const std::filesystem::path& input, const std::filesystem::path& output);

// The source's side files, `config` in place of its config.json.
std::vector<PlannedSideFile> PlanSideFiles(const Source& source, const std::string& config);

// Counts the plan's tensors and bytes, and the source's, and takes its warnings. `converted` of the
// source's tensors are converted, and all tensors of the output that are not made of these are
// copied.
void ReportPlanned(const Source& source, const Plan& plan, std::uint64_t converted,
                   ConversionReport& report);

}  // namespace dsv3::convert

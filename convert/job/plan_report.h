#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <unordered_map>

#include "convert/job/conversion_report.h"
#include "convert/job/run_options.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/stream/executor.h"
#include "convert/stream/record.h"

// The report of a run of a plan, and the resources that the run needs.
namespace dsv3::convert {

// The resources that the executor of `plan` derives from the options.
struct RunResources {
  std::size_t open_files = 0;      // output files that advance together; 0: all of them
  std::uint64_t memory_bytes = 0;  // of all buffers at most
};
RunResources ResourcesOf(const ExecutorOptions& options, const Plan& plan,
                         std::span<const std::size_t> files);

// Estimates the disk space below `output` that making the files `to_make` needs, and whether it
// fits; writes both to the report. Returns how many output files may advance together (0: as many
// as the executor likes).
std::size_t ReportDisk(const ModelTensors& source, const Plan& plan,
                       const std::filesystem::path& output, const RunOptions& run,
                       const ExecutorOptions& options, const std::vector<std::size_t>& to_make,
                       ConversionReport& report);
// Throws Error (kIo) when it does not.
void RequireDisk(const std::filesystem::path& output, const ConversionReport& report);

// What --delete-source-shards deletes of the source. Throws as PlanDeletion does.
std::vector<SourceDeletion> PlanDeletionOf(const ModelTensors& source);
// Adds the deletions of a run to its report, and counts them.
void ReportDeletions(const std::vector<SourceDeletion>& deletions, ConversionReport& report);

// Memory of a whole run, measured: the program itself; catalog, plan, digests and manifest; and the
// executor's buffers.
std::uint64_t EstimateMemory(const ModelTensors& source, const RunResources& resources);

// Lists the weight files with the facts in `records`; files in `finished` are marked as finished by
// an earlier run.
void ReportFiles(const Plan& plan, std::span<const std::size_t> files,
                 const std::map<std::string, FileRecord>& finished,
                 const std::unordered_map<std::string, FileRecord>& records,
                 ConversionReport& report);

// With --link: the weight files in `output` that are further names of source files.
ReportFact LinkedFiles(const Plan& plan, const std::filesystem::path& output);

}  // namespace dsv3::convert

#include "convert/recipes/job_common.h"

#include <cstdint>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/job/source_release.h"
#include "convert/stream/executor.h"
#include "formats/error.h"

namespace dsv3::convert {

void CheckRunOptions(const RunOptions& run) {
  if (run.memory_bytes != 0 && run.memory_bytes < kMinMemoryBytes) {
    throw Error(ErrorCode::kUsage, fmt::format("--memory {} is too little; give at least {} (8Mi)",
                                               run.memory_bytes, kMinMemoryBytes));
  }
}

OpenedModel OpenForJob(const std::filesystem::path& input, const std::filesystem::path& output,
                       const RunOptions& run) {
  RequirePlaces(input, output);
  OpenedModel model = OpenModel(input, {.freed = ReadFreedShards(output)});
  if (run.delete_source_shards && model.ranks) {
    throw Error(ErrorCode::kUsage,
                "--delete-source-shards: rank shards are needed whole until the last file is "
                "written; leave the option out, and delete them when the output is complete");
  }
  return model;
}

std::vector<PlannedSideFile> PlanSideFiles(const OpenedModel& source, const std::string& config) {
  std::vector<PlannedSideFile> side_files;
  for (const std::string& name : source.side_files) {
    if (name == formats::kConfigName) {
      side_files.push_back({name, {}, config});
    } else {
      side_files.push_back({name, source.directory / name, {}});
    }
  }
  return side_files;
}

void ReportPlanned(const OpenedModel& source, const Catalog& catalog, const Plan& plan,
                   std::uint64_t converted, ConversionReport& report) {
  report.warnings = source.findings;
  for (const PlannedFile& file : plan.files) {
    report.tensors += file.tensors.size();
    report.output_bytes += file.bytes;
    for (const PlannedTensor& tensor : file.tensors) {
      if (tensor.expression->rule() == "copy") ++report.copied_tensors;
    }
  }
  report.converted_tensors = converted;
  report.side_files = plan.side_files.size();
  for (const CatalogTensor& tensor : catalog.tensors()) {
    report.source_bytes += tensor.extent.length;
  }
}

}  // namespace dsv3::convert

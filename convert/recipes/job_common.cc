#include "convert/recipes/job_common.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/job/source_release.h"
#include "convert/stream/executor.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using formats::LeftBehind;
using formats::LeftBehindKind;

// Files of ModelOpt, AutoGPTQ, AutoAWQ, msmodelslim and llm-compressor that say which tensors are
// quantised and how.
bool DescribesQuantization(std::string_view name) {
  constexpr std::array<std::string_view, 5> kNames = {"hf_quant_config.json",
                                                      "quantize_config.json", "quant_config.json",
                                                      "quantization_config.json", "recipe.yaml"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         (name.starts_with("quant_model_description") && name.ends_with(".json"));
}

}  // namespace

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

void PlanSideFiles(const OpenedModel& source, const std::string& config,
                   const SideFileChoice& choice, Plan& plan) {
  std::vector<LeftBehind> left_behind = source.left_behind;
  for (const std::string& name : source.side_files) {
    if (name == formats::kConfigName) {
      plan.side_files.push_back({name, {}, config});
    } else if (choice.changes_quantization && DescribesQuantization(name)) {
      std::error_code error;
      const std::uintmax_t bytes = std::filesystem::file_size(source.directory / name, error);
      left_behind.push_back({name, LeftBehindKind::kUntrueDescription, error ? 0 : bytes});
    } else {
      plan.side_files.push_back({name, source.directory / name, {}});
    }
  }
  if (choice.all) {
    plan.options.push_back({"side_files", "\"all\""});
    for (const LeftBehind& each : left_behind) {
      plan.side_files.push_back({each.name, source.directory / each.name, {}});
    }
    left_behind.clear();
  }
  std::sort(plan.side_files.begin(), plan.side_files.end(),
            [](const PlannedSideFile& a, const PlannedSideFile& b) { return a.name < b.name; });
  std::sort(left_behind.begin(), left_behind.end(),
            [](const LeftBehind& a, const LeftBehind& b) { return a.name < b.name; });
  plan.left_behind = std::move(left_behind);
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
  report.left_behind = plan.left_behind;
  for (const CatalogTensor& tensor : catalog.tensors()) {
    report.source_bytes += tensor.extent.length;
  }
}

}  // namespace dsv3::convert

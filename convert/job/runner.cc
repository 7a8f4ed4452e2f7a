#include "convert/job/runner.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "convert/job/finished_output.h"
#include "convert/job/output_place.h"
#include "convert/job/source_release.h"
#include "convert/stream/archive_checks.h"
#include "convert/stream/executor.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

void CheckOptions(const ConversionKind& conversion, const RunOptions& run) {
  if (run.memory_bytes != 0 && run.memory_bytes < kMinMemoryBytes) {
    throw Error(ErrorCode::kUsage, fmt::format("--memory {} is too little; give at least {} (8Mi)",
                                               run.memory_bytes, kMinMemoryBytes));
  }
  if (run.delete_source_shards && !conversion.keeps_source.empty()) {
    throw Error(ErrorCode::kUsage, "--delete-source-shards: " + conversion.keeps_source);
  }
  if (conversion.check_options) conversion.check_options();
}

OpenedModel Open(const ConversionKind& conversion, const JobRequest& request) {
  RequirePlaces(request.input, request.output);
  if (conversion.open) return conversion.open(request.input);
  OpenOptions opening = conversion.opening;
  opening.freed = ReadFreedShards(request.output);
  OpenedModel model = OpenModel(request.input, opening);
  if (request.run.delete_source_shards && model.assembled) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--delete-source-shards: {} are needed whole until the last file is "
                    "written; leave the option out, and delete them when the output is complete",
                    model.ranks ? "rank shards" : "the files of a training checkpoint"));
  }
  return model;
}

ConversionReport ReportPlanned(const OpenedModel& model, const Recipe& recipe) {
  ConversionReport report;
  report.warnings = model.findings;
  report.warnings.insert(report.warnings.end(), recipe.warnings.begin(), recipe.warnings.end());
  std::uint64_t copied = 0;
  for (const PlannedFile& file : recipe.plan->files) {
    report.tensors += file.tensors.size();
    report.output_bytes += file.bytes;
    for (const PlannedTensor& tensor : file.tensors) {
      if (tensor.expression->rule() == "copy") ++copied;
    }
  }
  report.converted_tensors = recipe.converted_tensors;
  report.copied_tensors = recipe.copied_tensors.value_or(copied);
  report.side_files = recipe.plan->side_files.size();
  report.left_behind = recipe.plan->left_behind;
  for (const CatalogTensor& tensor : recipe.tensors.catalog.tensors()) {
    report.source_bytes += tensor.extent.length;
  }
  return report;
}

}  // namespace

ConversionReport RunConversion(const ConversionKind& conversion, const JobRequest& request,
                               formats::FileSystem& file_system, ProgressSink& progress,
                               const StopToken& stop) {
  const auto begin = std::chrono::steady_clock::now();
  CheckOptions(conversion, request.run);
  if (request.run.delete_source_shards) {
    auto finished =
        FinishedWithoutSource(request.input, request.output, conversion.recipe, file_system);
    if (finished) return std::move(*finished);
  }
  OpenedModel model = Open(conversion, request);
  const Recipe recipe = conversion.make_recipe(model);
  ConversionReport report = ReportPlanned(model, recipe);
  report.recipe = conversion.recipe;
  report.title = conversion.title;
  report.converted_text = conversion.converted_text;
  RunOptions run = request.run;
  run.input = formats::ShownAbsolutePath(request.input);
  run.source_is_checked = model.assembled && HasCheckedBytes(model.assembled->stored);
  report = RunPlan(recipe.tensors, *recipe.plan, request.output, run, recipe.hooks,
                   std::move(report), file_system, progress, stop);
  if (recipe.add_facts) recipe.add_facts(report);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace dsv3::convert

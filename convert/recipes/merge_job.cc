#include <chrono>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/job/run_plan.h"
#include "convert/open/open_model.h"
#include "convert/open/unfinished.h"
#include "convert/recipes/job_common.h"
#include "convert/recipes/merge.h"
#include "convert/recipes/merge_demo.h"
#include "convert/recipes/reshard_job.h"
#include "formats/error.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

void RequireRankDirectory(const std::filesystem::path& input, const MergeOptions& options) {
  RefuseUnfinishedConversion(input);
  if (IsRankDirectory(input) && !options.demo_config.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--config: {} has a layout.json, which holds the model's config.json; "
                            "leave the option out",
                            input.string()));
  }
  if (IsRankDirectory(input)) return;
  std::error_code ignored;
  const bool is_there = std::filesystem::is_directory(input, ignored);
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: {}; give the directory that dsv3-reshard wrote the rank shards to, or one "
                  "of the files of DeepSeek's inference demo (model0-mp8.safetensors), with "
                  "--config FILE",
                  input.string(),
                  is_there ? "there is no layout.json, which tells what each rank file holds"
                           : "there is no such directory"),
      {std::string(formats::kRankLayoutName), ""});
}

}  // namespace

MergeReport Merge(const ConversionRequest& request, formats::FileSystem& fs, ProgressSink& progress,
                  const StopToken& stop, const MergeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  CheckRunOptions(request.run);
  if (request.run.delete_source_shards) {
    throw Error(ErrorCode::kUsage,
                "--delete-source-shards: no file of a merge appears before all rank shards were "
                "checked, so that none can be deleted before; leave the option out");
  }
  const bool is_demo = IsDemoDirectory(request.input);
  if (!is_demo) RequireRankDirectory(request.input, options);
  RequirePlaces(request.input, request.output);
  std::optional<DemoModel> demo;
  if (is_demo) demo = OpenDemoModel(request.input, options.demo_config);
  const OpenedModel model = demo ? std::move(demo->model) : OpenModel(request.input);
  const Plan plan = PlanMerge(model, request.run.all_side_files);
  MergeReport report;
  report.original = model.ranks->is_original;
  report.differences = demo ? demo->differences : DifferencesFromOriginal(model);
  ConversionReport conversion;
  conversion.recipe = kMerge;
  ReportPlanned(model, model.ranks->stored, plan, 0, conversion);
  conversion.converted_tensors = conversion.tensors - conversion.copied_tensors;
  PlanHooks hooks;
  hooks.preflight = [&](const PreflightRun& run) {
    if (demo) RequireEqualCopies(model.ranks->stored, demo->copies);
    return run.known;
  };
  report.conversion = RunPlan(StoredTensorsOf(model), plan, request.output, request.run, hooks,
                              std::move(conversion), fs, progress, stop);
  report.conversion.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace dsv3::convert

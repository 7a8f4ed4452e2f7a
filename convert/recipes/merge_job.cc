#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/runner.h"
#include "convert/open/demo_model.h"
#include "convert/open/open_model.h"
#include "convert/open/unfinished.h"
#include "convert/recipes/merge.h"
#include "convert/recipes/reshard_job.h"
#include "convert/stream/equal_tensors.h"
#include "formats/error.h"
#include "formats/finding.h"
#include "formats/io/dead_link.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

void RequireRankDirectory(const std::filesystem::path& input, const MergeOptions& options) {
  RefuseUnfinishedConversion(input);
  if (IsRankDirectory(input) && !options.demo_config.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--config: {} has a layout.json, which holds the model's config.json; "
                            "leave the option out",
                            formats::ShownPath(input)));
  }
  if (IsRankDirectory(input)) return;
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::status(input, ignored);
  const std::string dead = formats::DeadLinkProblem(input);
  std::string problem = "there is no such directory";
  if (std::filesystem::is_directory(status)) {
    problem = "there is no layout.json, which says what each rank file holds";
  } else if (std::filesystem::exists(status)) {
    problem = "it is a file, and a directory is merged";
  } else if (!dead.empty()) {
    problem = "it is " + dead;
  }
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: {}; give the directory that dsv3-reshard wrote the rank shards to, or the "
                  "one with the files of DeepSeek's inference demo (model0-mp8.safetensors), with "
                  "--config FILE",
                  formats::ShownPath(input), problem),
      {std::string(formats::kRankLayoutName), ""});
}

// What a checkpoint made of the demo's files is not as in the original. What opening changed in the
// config is told there, and not as warnings.
std::vector<std::string> TakeDifferencesOfDemo(formats::Findings& findings) {
  std::vector<std::string> differences = {
      "The shards are new: the demo's files do not say in which shards the tensors were. Each "
      "tensor has its original bytes."};
  std::erase_if(findings, [&](formats::Finding& finding) {
    if (finding.kind != kDemoConfig) return false;
    differences.push_back(std::move(finding.message));
    return true;
  });
  return differences;
}

}  // namespace

MergeReport Merge(const JobRequest& request, formats::FileSystem& fs, ProgressSink& progress,
                  const StopToken& stop, const MergeOptions& options) {
  MergeReport report;
  ConversionKind conversion;
  conversion.recipe = kMerge;
  conversion.title = "Merged the ranks";
  conversion.keeps_source =
      "no file of a merge appears before all rank shards were checked, so that none can be deleted "
      "before; leave the option out";
  conversion.check_options = [&](const JobRequest&) {
    if (!IsDemoDirectory(request.input)) RequireRankDirectory(request.input, options);
  };
  conversion.opening.config = options.demo_config;
  conversion.opening.takes_config = true;
  conversion.make_recipe = [&report](OpenedModel& model, const RecipeContext& context) {
    Recipe recipe{
        .plan = std::make_shared<const Plan>(PlanMerge(model, context.request.run.all_side_files)),
        .tensors = StoredTensorsOf(model)};
    report.original = model.ranks && model.ranks->is_original;
    report.differences =
        model.ranks ? DifferencesFromOriginal(model) : TakeDifferencesOfDemo(model.findings);
    for (const PlannedFile& file : recipe.plan->files) {
      for (const PlannedTensor& tensor : file.tensors) {
        if (tensor.expression->rule() != "copy") ++recipe.converted_tensors;
      }
    }
    recipe.hooks.preflight = [&model, context](const PreflightRun& run) {
      RequireEqualTensors(model.assembled->stored, model.assembled->copies,
                          context.request.run.threads, context.progress, context.stop);
      return run.known;
    };
    return recipe;
  };
  report.conversion = RunConversion(conversion, request, fs, progress, stop);
  return report;
}

}  // namespace dsv3::convert

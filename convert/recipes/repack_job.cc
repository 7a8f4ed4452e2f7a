#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/runner.h"
#include "convert/recipes/repack.h"
#include "convert/recipes/repack_check.h"
#include "convert/stream/scan.h"

namespace dsv3::convert {
namespace {

// What a repack recipe works on.
class RepackJob {
 public:
  RepackJob(RepackTarget target, const OpenedModel& model, const RecipeContext& context)
      : context_(context),
        model_(model),
        repacked_(FindRepacked(model, target)),
        plan_(PlanRepack(model.catalog, repacked_, model.needs_index)),
        check_(model.catalog, repacked_, model.freed) {
    PlanRepackSideFiles(model, repacked_, context.request.run.all_side_files, plan_);
    FindWeightsOfFiles();
  }

  static Recipe MakeRecipe(const std::shared_ptr<RepackJob>& job) {
    Recipe recipe{.plan = std::shared_ptr<const Plan>(job, &job->plan_),
                  .tensors = TensorsOf(job->model_)};
    recipe.converted_tensors = job->repacked_.weights.size();
    recipe.warnings = job->Warnings();
    recipe.hooks.preflight = [job](const PreflightRun& run) {
      const RecipeContext& context = job->context_;
      return job->check_.LookAtAll(context.request.run.tensor_sha256, run, context.progress,
                                   context.stop);
    };
    // Processes that help another one have no preflight.
    recipe.hooks.prepare = [job](std::span<const std::size_t> files, SourceFiles& sources,
                                 ProgressSink& progress) {
      std::vector<std::size_t> weights;
      for (const std::size_t file : files) {
        const std::vector<std::size_t>& of_file = job->weights_of_file_[file];
        weights.insert(weights.end(), of_file.begin(), of_file.end());
      }
      job->check_.LookAt(weights, sources, progress, job->context_.stop);
    };
    return recipe;
  }

 private:
  void FindWeightsOfFiles() {
    std::unordered_map<std::string_view, std::size_t> planned;
    for (std::size_t i = 0; i < plan_.files.size(); ++i) planned.emplace(plan_.files[i].name, i);
    weights_of_file_.resize(plan_.files.size());
    for (std::size_t i = 0; i < repacked_.weights.size(); ++i) {
      const ScaledWeight& weight = repacked_.weights[i].weight;
      for (const std::uint32_t tensor : {weight.weight, weight.scale, weight.tensor_scale}) {
        if (tensor == Catalog::kNone) continue;
        const std::uint32_t file = model_.catalog.tensors()[tensor].extent.file;
        const auto found = planned.find(model_.catalog.files()[file].name);
        if (found != planned.end()) weights_of_file_[found->second].push_back(i);
      }
    }
  }

  formats::Findings Warnings() const {
    if (repacked_.target != RepackTarget::kNvFp4ModelOpt) return {};
    const auto uncalibrated = std::count_if(
        repacked_.weights.begin(), repacked_.weights.end(),
        [](const RepackedWeight& each) { return each.input_scale == Catalog::kNone; });
    if (uncalibrated == 0) return {};
    return {{formats::Severity::kWarning, "uncalibrated-activations", "", "",
             fmt::format("{} weight{} got the input_scale 1.0, since the source has no scales of "
                         "activations; the weights are exact, but nothing was calibrated",
                         uncalibrated, uncalibrated == 1 ? "" : "s")}};
  }

  const RecipeContext context_;
  const OpenedModel& model_;
  const RepackedModel repacked_;
  Plan plan_;
  RepackCheck check_;
  std::vector<std::vector<std::size_t>> weights_of_file_;  // by position in plan_.files
};

}  // namespace

ConversionKind RepackConversion(const RepackOptions& options) {
  ConversionKind conversion;
  conversion.recipe = "repack";
  conversion.check_options = [options](const JobRequest&) {
    if (!options.to) {
      throw Error(ErrorCode::kUsage,
                  "--to is missing; give the form to write, fp8, nvfp4, nvfp4-modelopt or "
                  "nvfp4-compressed-tensors");
    }
  };
  const std::string target =
      options.to ? std::string(RepackTargetName(*options.to)) : std::string();
  conversion.title = "Repacked without loss";
  conversion.converted_text = "to " + target;
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    return RepackJob::MakeRecipe(std::make_shared<RepackJob>(*options.to, model, context));
  };
  return conversion;
}

}  // namespace dsv3::convert

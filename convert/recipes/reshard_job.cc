#include "convert/recipes/reshard_job.h"

#include <memory>
#include <utility>

#include "convert/job/runner.h"
#include "convert/model/layer_kinds.h"
#include "convert/open/open_model.h"
#include "convert/plan/slice_expression.h"
#include "convert/recipes/check_scales.h"
#include "convert/recipes/reshard.h"
#include "convert/stream/derived_checks.h"
#include "formats/error.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

// What a reshard recipe works on.
class ReshardJob {
 public:
  ReshardJob(const ReshardRequest& request, const OpenedModel& model, ProgressSink& progress,
             const StopToken& stop)
      : request_(request),
        model_(model),
        stored_(StoredTensorsOf(model)),
        files_(ReadModelFiles(model)),
        reshard_(PlanReshard(model, request.options, request.run.all_side_files)),
        progress_(progress),
        stop_(stop) {}

  static Recipe MakeRecipe(const std::shared_ptr<ReshardJob>& job) {
    Recipe recipe{.plan = std::shared_ptr<const Plan>(job, &job->reshard_.plan),
                  .tensors = job->stored_};
    recipe.hooks.preflight = [job](const PreflightRun& run) { return job->CheckSources(run); };
    recipe.hooks.closing_name = formats::kRankLayoutName;
    recipe.hooks.closing_text = [job](const FileRecords& records, const std::string& fingerprint) {
      return LayoutText(job->reshard_, job->model_, job->files_, fingerprint, records);
    };
    recipe.hooks.bundles = job->FilesByRank();
    if (!job->request_.options.ranks.empty()) {
      recipe.hooks.selected = FilesOfRanks(job->reshard_, job->request_.options.ranks);
    }
    recipe.converted_tensors = job->ConvertedTensors();
    std::uint64_t tensors = 0;
    for (const PlannedFile& file : recipe.plan->files) tensors += file.tensors.size();
    recipe.copied_tensors = tensors - recipe.converted_tensors;
    recipe.warnings = job->reshard_.warnings;
    return recipe;
  }

  ReshardReport Describe() {
    ReshardReport report;
    report.topology = reshard_.topology;
    report.ranks = reshard_.ranks;
    for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
      for (const std::uint32_t file : reshard_.files_of_rank[rank]) {
        report.ranks[rank].files.push_back(reshard_.plan.files[file].name);
      }
    }
    // A model may have experts in its MTP layer alone.
    const std::uint64_t first_moe_layer = FirstMoeLayer(model_.config);
    if (reshard_.placement && first_moe_layer < reshard_.placement->maps().size()) {
      report.expert_map = reshard_.placement->maps();
      report.first_moe_layer = first_moe_layer;
    }
    report.expert_load = reshard_.expert_load;
    report.replicated_modules = reshard_.slicing.replicated_modules;
    report.bf16_modules = reshard_.slicing.bf16_modules;
    report.recut_block = reshard_.slicing.recut_block;
    report.dropped = reshard_.dropped;
    return report;
  }

 private:
  // Each rank's files but those of an earlier rank.
  FileBundles FilesByRank() const {
    std::vector<char> taken(reshard_.plan.files.size(), 0);
    FileBundles bundles;
    for (const std::vector<std::uint32_t>& files : reshard_.files_of_rank) {
      std::vector<std::size_t> bundle;
      for (const std::uint32_t file : files) {
        if (std::exchange(taken[file], char{1}) == 0) bundle.push_back(file);
      }
      if (!bundle.empty()) bundles.push_back(std::move(bundle));
    }
    return bundles;
  }

  // Tensors of the output that are not bytes of the source.
  std::uint64_t ConvertedTensors() const {
    std::uint64_t converted = 0;
    for (const PlannedFile& file : reshard_.plan.files) {
      for (const PlannedTensor& tensor : file.tensors) {
        const Expression& origin = *tensor.expression->slice()->parts().front().origin;
        if (origin.rule() == formats::kDequantizeRule) ++converted;
      }
    }
    return converted;
  }

  // Copies that ranks hold, and scales, as fp8-to-bf16 does before it multiplies with them.
  SideDigests CheckSources(const PreflightRun& run) {
    CheckCopies(TensorsOf(model_).derived, request_.run.threads, progress_, stop_);
    SideDigests digests = run.known;
    if (reshard_.dequantized.empty()) return digests;
    ScaleCheck check =
        CheckScales(stored_.catalog, reshard_.dequantized, /*allow_bad_scales=*/false,
                    request_.run.tensor_sha256, run.sources, progress_, stop_);
    for (std::size_t i = 0; i < reshard_.dequantized.size(); ++i) {
      digests.emplace(reshard_.dequantized[i].scale, std::move(check.digests[i]));
    }
    return digests;
  }

  const ReshardRequest& request_;
  const OpenedModel& model_;
  const ModelTensors stored_;
  const ModelFiles files_;
  const ReshardPlan reshard_;
  ProgressSink& progress_;
  const StopToken& stop_;
};

}  // namespace

ReshardReport Reshard(const ReshardRequest& request, formats::FileSystem& fs,
                      ProgressSink& progress, const StopToken& stop) {
  ReshardReport report;
  ConversionKind conversion;
  conversion.recipe = kReshard;
  conversion.title = "Cut into ranks";
  conversion.keeps_source =
      "rank shards need the source whole until the last of them is written; leave the option out";
  conversion.check_options = [&](const JobRequest&) { CheckReshardOptions(request.options); };
  conversion.open = [](const JobRequest& job, const OpenOptions& opening) {
    return OpenModel(job.input, {.base = opening.base});
  };
  conversion.make_recipe = [&](const OpenedModel& model, const RecipeContext&) {
    const auto job = std::make_shared<ReshardJob>(request, model, progress, stop);
    report = job->Describe();
    return ReshardJob::MakeRecipe(job);
  };
  report.conversion =
      RunConversion(conversion, {request.input, request.output, request.run}, fs, progress, stop);
  return report;
}

}  // namespace dsv3::convert

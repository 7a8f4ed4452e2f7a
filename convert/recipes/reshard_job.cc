#include "convert/recipes/reshard_job.h"

#include <chrono>
#include <utility>

#include "convert/job/output_place.h"
#include "convert/job/run_plan.h"
#include "convert/open/open_model.h"
#include "convert/plan/slice_expression.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/job_common.h"
#include "convert/recipes/reshard.h"
#include "formats/error.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

// One reshard command.
class ReshardJob {
 public:
  ReshardJob(const ReshardRequest& request, formats::FileSystem& fs, ProgressSink& progress,
             const StopToken& stop)
      : request_(request),
        model_(OpenModel(request.input)),
        reshard_(PlanReshard(model_, request.options, request.run.all_side_files)),
        fs_(fs),
        progress_(progress),
        stop_(stop) {}

  ReshardReport Run() {
    PlanHooks hooks;
    hooks.preflight = [this](const PreflightRun& run) { return CheckDequantized(run); };
    hooks.closing_name = formats::kRankLayoutName;
    hooks.closing_text = [this](const FileRecords& records, const std::string& fingerprint) {
      return LayoutText(reshard_, model_, files_, fingerprint, records);
    };
    hooks.bundles = FilesByRank();
    if (!request_.options.ranks.empty()) {
      hooks.selected = FilesOfRanks(reshard_, request_.options.ranks);
    }
    ConversionReport conversion;
    conversion.recipe = kReshard;
    const std::uint64_t converted = ConvertedTensors();
    ReportPlanned(model_, stored_.catalog, reshard_.plan, converted, conversion);
    conversion.copied_tensors = conversion.tensors - converted;
    for (const formats::Finding& warning : reshard_.warnings) {
      conversion.warnings.push_back(warning);
    }
    ReshardReport report = Describe();
    report.conversion = RunPlan(stored_, reshard_.plan, request_.output, request_.run, hooks,
                                std::move(conversion), fs_, progress_, stop_);
    return report;
  }

 private:
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
    const std::uint64_t first_moe_layer = model_.config.first_k_dense_replace;
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

  // As fp8-to-bf16 does before it multiplies with them.
  SideDigests CheckDequantized(const PreflightRun& run) {
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
  const OpenedModel model_;
  const ModelTensors stored_ = StoredTensorsOf(model_);
  const ModelFiles files_ = ReadModelFiles(model_);
  ReshardPlan reshard_;
  formats::FileSystem& fs_;
  ProgressSink& progress_;
  const StopToken& stop_;
};

}  // namespace

ReshardReport Reshard(const ReshardRequest& request, formats::FileSystem& fs,
                      ProgressSink& progress, const StopToken& stop) {
  const auto begin = std::chrono::steady_clock::now();
  CheckRunOptions(request.run);
  CheckReshardOptions(request.options);
  if (request.run.delete_source_shards) {
    throw Error(ErrorCode::kUsage,
                "--delete-source-shards: rank shards need the source whole until the last of them "
                "is written; leave the option out");
  }
  RequirePlaces(request.input, request.output);
  ReshardReport report = ReshardJob(request, fs, progress, stop).Run();
  report.conversion.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace dsv3::convert

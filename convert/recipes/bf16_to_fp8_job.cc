#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/job/finished_output.h"
#include "convert/job/run_plan.h"
#include "convert/open/open_model.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/bf16_to_fp8_original.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/first_passes.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/job_common.h"
#include "formats/checkpoint_files.h"
#include "formats/manifest.h"

namespace dsv3::convert {
namespace {

// What the conversion that made the source left beside it.
std::optional<formats::Manifest> ReadSourceManifest(const OpenedModel& source) {
  const std::filesystem::path path = source.directory / formats::kManifestName;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return formats::ParseManifest(formats::ReadSmallFile(path, formats::kMaxManifestBytes),
                                path.string());
}

// The quantization_config that the config has, or had before the source was cast to BF16.
std::optional<KeptQuantization> KeptOf(const OpenedModel& source,
                                       const std::optional<formats::Manifest>& manifest) {
  if (auto kept = QuantizationOf(source.config_text, source.config)) return kept;
  if (!manifest) return std::nullopt;
  for (const auto& [member, json] : manifest->job.removed_config) {
    if (member == "quantization_config" || member.ends_with("/quantization_config")) {
      return KeptQuantization{member, json};
    }
  }
  return std::nullopt;
}

// One bf16-to-fp8 command.
class Bf16ToFp8Job {
 public:
  Bf16ToFp8Job(const ConversionRequest& request, OpenedModel source, formats::FileSystem& fs,
               ProgressSink& progress, const StopToken& stop)
      : request_(request),
        options_(request.bf16_to_fp8),
        source_(std::move(source)),
        fs_(fs),
        progress_(progress),
        stop_(stop) {}

  ConversionReport Run() {
    if (options_.scales_from.empty()) {
      PlanByRules();
    } else {
      PlanByOriginal();
    }
    if (auto stale = QuantizationOf(source_.config_text, source_.config)) {
      plan_.plan.removed_config.emplace_back(std::move(stale->member), std::move(stale->json));
    }
    ConversionReport report;
    report.recipe = kBf16ToFp8;
    ReportPlanned(source_, source_.catalog, plan_.plan, selection_.quantized.size(), report);
    for (const formats::Finding& warning : selection_.warnings) report.warnings.push_back(warning);
    for (const std::uint32_t i : selection_.already_fp8) {
      report.already_fp8.push_back(source_.catalog.tensors()[i].name);
    }
    PlanHooks hooks;
    hooks.preflight = [this](const PreflightRun& run) { return LookAhead(run); };
    hooks.prepare = [this](std::span<const std::size_t> files, SourceFiles& sources,
                           ProgressSink& progress) {
      RunFirstPasses(source_.catalog, plan_.passes, files, sources, request_.run, progress, stop_);
    };
    return RunPlan(TensorsOf(source_), plan_.plan, request_.output, request_.run, hooks,
                   std::move(report), fs_, progress_, stop_);
  }

 private:
  void PlanByRules() {
    const Fp8Form form = FormOfOptions(options_);
    const std::optional<KeptQuantization> kept = KeptOf(source_, ReadSourceManifest(source_));
    const ModuleList listed(kept ? ModulesToNotConvert(kept->json, "config.json")
                                 : std::vector<std::string>());
    selection_ = SelectTensors(source_.catalog, source_.config, options_, form, listed);
    if (source_.config.quantization && selection_.already_fp8.empty()) {
      selection_.warnings.push_back(
          {formats::Severity::kWarning, "stale-quantization-config", "config.json", "",
           "config.json: there is a quantization_config, but no weight is FP8; it is replaced, and "
           "only its modules_to_not_convert are honoured"});
    }
    plan_ = PlanBf16ToFp8(source_.catalog, selection_, form, options_, source_.needs_index);
    TakeSideFiles(ConfigForFp8(source_.config_text, source_.config, form, selection_, kept));
  }

  void PlanByOriginal() {
    manifest_ = ReadSourceManifest(source_);
    original_ = OpenOriginal(options_, request_.output, source_.catalog);
    selection_ = SelectLikeOriginal(source_.catalog, *original_, options_);
    plan_ = PlanLikeOriginal(source_.catalog, selection_, *original_, options_);
    TakeSideFiles(ConfigLikeOriginal(source_.config_text, *original_));
  }

  void TakeSideFiles(const std::string& config) {
    PlanSideFiles(source_, config,
                  {.all = request_.run.all_side_files, .changes_quantization = true}, plan_.plan);
  }

  // Before anything is written: whether the original is the right one.
  SideDigests LookAhead(const PreflightRun& run) {
    SideDigests digests = run.known;
    if (original_) {
      // A scale that is no number belongs to an unedited block, or is replaced.
      ScaleCheck check = CheckScales(source_.catalog, original_->pairs, /*allow_bad_scales=*/true,
                                     request_.run.tensor_sha256, run.sources, progress_, stop_);
      for (std::size_t i = 0; i < original_->pairs.size(); ++i) {
        digests.emplace(original_->pairs[i].scale, std::move(check.digests[i]));
      }
      if (manifest_) RequireOriginalOf(*manifest_, source_.catalog, *original_, digests);
    }
    return digests;
  }

  const ConversionRequest& request_;
  const Bf16ToFp8Options& options_;
  OpenedModel source_;
  formats::FileSystem& fs_;
  ProgressSink& progress_;
  const StopToken& stop_;
  std::optional<formats::Manifest> manifest_;  // with an original only
  std::optional<Original> original_;
  TensorSelection selection_;
  Bf16ToFp8Plan plan_;
};

}  // namespace

ConversionReport ConvertBf16ToFp8(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop) {
  const auto begin = std::chrono::steady_clock::now();
  CheckRunOptions(request.run);
  // Before the source is opened: options alone are wrong.
  if (request.bf16_to_fp8.scales_from.empty()) FormOfOptions(request.bf16_to_fp8);
  if (request.run.delete_source_shards) {
    auto finished = FinishedWithoutSource(request.input, request.output, kBf16ToFp8, fs);
    if (finished) return std::move(*finished);
  }
  OpenedModel source = OpenForJob(request.input, request.output, request.run);
  ConversionReport report = Bf16ToFp8Job(request, std::move(source), fs, progress, stop).Run();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace dsv3::convert

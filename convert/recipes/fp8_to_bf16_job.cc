#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/job/finished_output.h"
#include "convert/job/run_plan.h"
#include "convert/open/open_model.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/job_common.h"

namespace dsv3::convert {

ConversionReport ConvertFp8ToBf16(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop) {
  const auto begin = std::chrono::steady_clock::now();
  CheckRunOptions(request.run);
  ConversionReport report;
  report.recipe = "fp8-to-bf16";
  if (request.run.delete_source_shards) {
    auto finished = FinishedWithoutSource(request.input, request.output, report.recipe, fs);
    if (finished) return std::move(*finished);
  }
  const OpenedModel source = OpenForJob(request.input, request.output, request.run);
  const std::vector<ScaledWeight> pairs = PairScales(source.catalog, source.config);
  Plan plan = PlanFp8ToBf16(source.catalog, pairs, request.fp8_to_bf16, source.needs_index);
  PlanSideFiles(source, ConfigForBf16(source.config_text, source.config, plan),
                {.all = request.run.all_side_files, .changes_quantization = true}, plan);

  ReportPlanned(source, source.catalog, plan, pairs.size(), report);

  std::vector<TensorCount> bad_scales;
  std::optional<formats::Finding> scale_fmt;
  const Preflight check_scales = [&](const PreflightRun& run) {
    std::vector<ScaledWeight> unchecked;
    for (const ScaledWeight& pair : pairs) {
      if (run.known.count(pair.scale) == 0) unchecked.push_back(pair);
    }
    ScaleCheck check = CheckScales(source.catalog, unchecked, request.fp8_to_bf16.allow_bad_scales,
                                   request.run.tensor_sha256, run.sources, progress, stop);
    bad_scales = std::move(check.bad_scales);
    scale_fmt = CheckScaleFmt(source.catalog, source.config, unchecked, check.significands);
    if (scale_fmt) progress.OnWarning(scale_fmt->message);
    SideDigests digests = run.known;
    for (std::size_t i = 0; i < unchecked.size(); ++i) {
      digests.emplace(unchecked[i].scale, std::move(check.digests[i]));
    }
    return digests;
  };
  PlanHooks hooks;
  hooks.preflight = check_scales;
  report = RunPlan(TensorsOf(source), plan, request.output, request.run, hooks, std::move(report),
                   fs, progress, stop);
  report.bad_scales = std::move(bad_scales);
  if (scale_fmt) report.warnings.push_back(std::move(*scale_fmt));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace dsv3::convert

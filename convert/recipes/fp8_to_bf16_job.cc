#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/report_fact.h"
#include "convert/job/runner.h"
#include "convert/model/activation_scales.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/side_files.h"

namespace dsv3::convert {
namespace {

// What the preflight finds, for the report.
struct Facts {
  std::vector<TensorCount> bad_scales;
};

SideDigests CheckAllScales(const OpenedModel& model, const std::vector<ScaledWeight>& pairs,
                           const ConversionRequest& request, const PreflightRun& run,
                           ProgressSink& progress, const StopToken& stop, Facts& facts) {
  std::vector<ScaledWeight> unchecked;
  for (const ScaledWeight& pair : pairs) {
    if (run.known.count(pair.scale) == 0) unchecked.push_back(pair);
  }
  ScaleCheck check = CheckScales(model.catalog, unchecked, request.fp8_to_bf16.allow_bad_scales,
                                 request.run.tensor_sha256, run.sources, progress, stop);
  facts.bad_scales = std::move(check.bad_scales);
  if (auto warning = CheckScaleFmt(model.catalog, model.config, unchecked, check.significands)) {
    run.warn(std::move(*warning));
  }
  SideDigests digests = run.known;
  for (std::size_t i = 0; i < unchecked.size(); ++i) {
    digests.emplace(unchecked[i].scale, std::move(check.digests[i]));
  }
  return digests;
}

// The scales of activations, which nothing reads beside a BF16 weight.
ReportFact DroppedScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs) {
  std::vector<std::string> names;
  for (const std::uint32_t i : FindActivationScales(catalog, pairs)) {
    names.push_back(catalog.tensors()[i].name);
  }
  return DroppedFact(std::move(names), "scale", "of activations, which only FP8 weights need");
}

}  // namespace

ConversionReport ConvertFp8ToBf16(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop) {
  ConversionKind conversion;
  conversion.recipe = "fp8-to-bf16";
  conversion.title = "Converted FP8 to BF16";
  conversion.converted_text = "FP8 to BF16";
  conversion.make_recipe = [&](OpenedModel& model) {
    const auto pairs =
        std::make_shared<const std::vector<ScaledWeight>>(PairScales(model.catalog, model.config));
    const auto facts = std::make_shared<Facts>();
    const auto plan = std::make_shared<Plan>(
        PlanFp8ToBf16(model.catalog, *pairs, request.fp8_to_bf16, model.needs_index));
    PlanSideFiles(model, ConfigForBf16(model.config_text, model.config, *plan),
                  {.all = request.run.all_side_files, .changes_quantization = true}, *plan);
    Recipe recipe{.plan = plan, .tensors = TensorsOf(model)};
    recipe.converted_tensors = pairs->size();
    recipe.hooks.preflight = [&, pairs, facts](const PreflightRun& run) {
      return CheckAllScales(model, *pairs, request, run, progress, stop, *facts);
    };
    recipe.add_facts = [&model, pairs, facts](ConversionReport& report) {
      report.facts.push_back(DroppedScales(model.catalog, *pairs));
      report.bad_scales = std::move(facts->bad_scales);
    };
    return recipe;
  };
  return RunConversion(conversion, {request.input, request.output, request.run}, fs, progress,
                       stop);
}

}  // namespace dsv3::convert

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "convert/job/report_fact.h"
#include "convert/job/runner.h"
#include "convert/model/config_edit.h"
#include "convert/recipes/check_scales.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/folded_bias.h"
#include "convert/recipes/side_files.h"
#include "formats/checkpoint_files.h"
#include "formats/left_behind.h"

namespace dsv3::convert {
namespace {

constexpr char kDequantize[] = "dequantize";

// What the recipe needs after its plan was made.
struct State {
  QuantizedModel quantized;
  ReportFact dropped;
  std::vector<TensorCount> bad_scales;  // found by the preflight
};

}  // namespace

SideDigests CheckQuantizedWeights(const Catalog& catalog, const ModelConfig& config,
                                  const Plan& plan, const std::vector<ScaledWeight>& weights,
                                  const DequantizeOptions& options, bool sha256,
                                  const PreflightRun& run, ProgressSink& progress,
                                  const StopToken& stop, std::vector<TensorCount>& bad_scales) {
  std::unordered_set<std::string_view> to_make;
  for (const std::size_t file : run.to_make) to_make.insert(plan.files[file].name);
  const auto is_there = [&](std::string_view file) { return to_make.count(file) != 0; };
  CheckWeightShapes(catalog, weights, is_there, run.sources, stop);
  ScaleCheck check = CheckScales(catalog, weights, options.allow_bad_scales, sha256, run.sources,
                                 progress, stop, run.known);
  bad_scales = std::move(check.bad_scales);
  std::vector<ScaledWeight> fp8;  // scale_fmt says nothing of others
  std::vector<ScaleSignificands> significands;
  SideDigests digests = run.known;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    digests.emplace(weights[i].scale, std::move(check.digests[i]));
    if (!IsFp8(catalog.tensors()[weights[i].weight].dtype)) continue;
    fp8.push_back(weights[i]);
    significands.push_back(check.significands[i]);
  }
  for (auto& [tensor, found] : check.beside) digests.emplace(tensor, std::move(found));
  if (auto warning = CheckScalesOfZeros(catalog, weights, check.significands)) {
    run.warn(std::move(*warning));
  }
  if (auto warning = CheckScaleFmt(catalog, config, fp8, significands)) {
    run.warn(std::move(*warning));
  }
  return digests;
}

void KeepDescriptions(const std::filesystem::path& directory, Plan& plan) {
  for (const formats::LeftBehind& file : plan.left_behind) {
    if (file.kind != formats::LeftBehindKind::kUntrueDescription || !file.name.ends_with(".json") ||
        file.bytes > formats::kMaxConfigBytes) {
      continue;
    }
    std::string text = formats::ReadSmallFile(directory / file.name, formats::kMaxConfigBytes);
    if (nlohmann::json::accept(text)) plan.removed_config.emplace_back(file.name, std::move(text));
  }
}

Recipe MakeDequantizeRecipe(const OpenedModel& model, const std::string& name,
                            DequantizeRecipe parts, const DequantizeOptions& options,
                            const RecipeContext& context) {
  const auto state = std::make_shared<State>();
  state->quantized = std::move(parts.quantized);
  const QuantizedModel& quantized = state->quantized;
  std::vector<std::string> names;
  for (const std::uint32_t i : quantized.dropped) names.push_back(model.catalog.tensors()[i].name);
  state->dropped = DroppedFact(std::move(names), parts.dropped_what, parts.dropped_which);
  const auto plan = std::make_shared<Plan>(PlanDequantize(
      name, model.catalog, quantized.weights, quantized.dropped, options, model.needs_index));
  PlanSideFiles(model, ConfigForBf16(model.config_text, model.config, plan->removed_config),
                {.all = context.request.run.all_side_files, .changes_quantization = true}, *plan);
  if (name == kDequantize) KeepDescriptions(model.directory, *plan);
  Recipe recipe{.plan = plan, .tensors = TensorsOf(model)};
  recipe.converted_tensors = quantized.weights.size();
  recipe.hooks.preflight = [&model, options, context, plan, state](const PreflightRun& run) {
    RefuseFoldedBiases(model.catalog, *plan, state->quantized.weights, run, context.progress,
                       context.stop);
    return CheckQuantizedWeights(model.catalog, model.config, *plan, state->quantized.weights,
                                 options, context.request.run.tensor_sha256, run, context.progress,
                                 context.stop, state->bad_scales);
  };
  recipe.add_facts = [state](ConversionReport& report) {
    report.facts.push_back(state->dropped);
    report.bad_scales = std::move(state->bad_scales);
  };
  return recipe;
}

ConversionKind DequantizeConversion(const DequantizeOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kDequantize;
  conversion.title = "Dequantised to BF16";
  conversion.converted_text = "to BF16";
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    DequantizeRecipe parts;
    parts.quantized = FindQuantizedModel(model.catalog, model.config);
    // They are beside the codes, for engines alone.
    parts.dropped_what = "tensor";
    parts.dropped_which = "beside the weights, which only codes need";
    return MakeDequantizeRecipe(model, kDequantize, std::move(parts), options, context);
  };
  return conversion;
}

}  // namespace dsv3::convert

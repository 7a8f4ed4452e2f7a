#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/report_fact.h"
#include "convert/job/runner.h"
#include "convert/model/config_edit.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/folded_bias.h"
#include "convert/recipes/quantize.h"
#include "convert/recipes/quantize_targets.h"
#include "convert/recipes/restore.h"
#include "convert/recipes/side_files.h"
#include "convert/recipes/tensor_scales.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

constexpr char kHfQuantConfig[] = "hf_quant_config.json";

// What a quantize recipe works on.
class QuantizeJob {
 public:
  QuantizeJob(const QuantizeOptions& options, const OpenedModel& model,
              const RecipeContext& context)
      : context_(context),
        target_(TargetOf(options)),
        model_(model),
        source_(FindQuantizedWeights(model.catalog, model.config)) {
    std::optional<KeptQuantization> kept = KeptOf(model_, ReadSourceManifest(model_));
    // compressed-tensors' older name of it is nobody's place for a new one.
    if (kept && !kept->member.ends_with("quantization_config")) kept.reset();
    QuantizationConfig listed;
    if (kept && target_.fp8) listed = ParseKeptQuantization(*kept, "config.json");
    Plan values = PlanDequantize(kQuantize, model_.catalog, source_.weights, source_.dropped,
                                 DequantizeOptions{}, false);
    planned_ = PlanQuantize(values, model_.catalog, model_.config, options,
                            ModuleList(listed.modules_to_not_convert), model_.needs_index);
    if (!listed.module_lists.empty()) planned_.selection.module_lists = listed.module_lists;
    PlanConfig(kept);
  }

  static Recipe MakeRecipe(const std::shared_ptr<QuantizeJob>& job) {
    Recipe recipe{.plan = std::shared_ptr<const Plan>(job, &job->planned_.plan),
                  .tensors = TensorsOf(job->model_)};
    recipe.converted_tensors = job->planned_.selection.quantized.size();
    recipe.warnings = job->planned_.selection.warnings;
    recipe.hooks.preflight = [job](const PreflightRun& run) {
      RefuseFoldedBiases(job->model_.catalog, job->planned_.plan, job->source_.weights, run,
                         job->context_.progress, job->context_.stop);
      return CheckQuantizedWeights(job->model_.catalog, job->model_.config, job->planned_.plan,
                                   job->source_.weights, DequantizeOptions{},
                                   job->context_.request.run.tensor_sha256, run,
                                   job->context_.progress, job->context_.stop, job->bad_scales_);
    };
    if (!job->planned_.passes.empty()) {
      recipe.hooks.prepare = [job](std::span<const std::size_t> files, SourceFiles& sources,
                                   ProgressSink& progress) {
        FindTensorScales(job->model_, job->source_.weights, job->planned_.passes, files, sources,
                         job->context_.request.run, progress, job->context_.stop);
      };
    }
    if (job->SharesScales()) {
      recipe.keeps_source =
          "this form does not go with it: gate_proj and up_proj have a scale together, which a run "
          "that continues must find in both of them";
    }
    recipe.add_facts = [job](ConversionReport& report) { job->AddFacts(report); };
    return recipe;
  }

 private:
  // Whether weights have a tensor scale together.
  bool SharesScales() const {
    return std::any_of(planned_.passes.begin(), planned_.passes.end(),
                       [](const TensorScalePass& pass) { return pass.weights.size() > 1; });
  }

  void PlanConfig(const std::optional<KeptQuantization>& kept) {
    Plan& plan = planned_.plan;
    std::string text = model_.config_text;
    if (!source_.weights.empty()) {
      text = ConfigForBf16(text, model_.config, plan.removed_config);
    } else if (auto stale = QuantizationOf(text, model_.config)) {
      plan.removed_config.emplace_back(std::move(stale->member), std::move(stale->json));
      planned_.selection.warnings.push_back(
          {formats::Severity::kWarning, "stale-quantization-config", formats::kConfigName, "",
           "config.json: there is a quantization_config, but no weight is quantised; it is "
           "replaced"});
    }
    const QuantizedConfig made = target_.config(planned_.selection);
    if (!made.quantization_config.empty()) {
      text = SetQuantizationConfig(text, model_.config, made.quantization_config, kept);
      if (target_.fp8) text = WithFp8Experts(text, model_.config);
    } else if (const auto stale = QuantizationOf(text, model_.config)) {
      text = formats::RemoveJsonMember(text, stale->member, formats::kConfigName);
    }
    PlanSideFiles(model_, text,
                  {.all = context_.request.run.all_side_files, .changes_quantization = true}, plan);
    KeepDescriptions(model_.directory, plan);
    if (!made.hf_quant_config.empty()) {
      PutSideFile({kHfQuantConfig, {}, made.hf_quant_config}, plan);
    }
  }

  void AddFacts(ConversionReport& report) const {
    std::vector<std::string> dropped;
    for (const std::uint32_t i : source_.dropped) {
      dropped.push_back(model_.catalog.tensors()[i].name);
    }
    report.facts.push_back(DroppedFact(std::move(dropped), "tensor",
                                       "beside the weights, which only their old codes need"));
    report.facts.push_back(FactOf("dequantized", planned_.left, "weight",
                                  "that --modules leaves, dequantised to BF16"));
  }

  const RecipeContext context_;
  const QuantizeTarget& target_;
  const OpenedModel& model_;
  const QuantizedModel source_;  // of a source that is quantised already
  QuantizePlan planned_;
  std::vector<TensorCount> bad_scales_;  // stays empty: they are errors
};

// What the recipe with an original works on.
class RestoreJob {
 public:
  RestoreJob(const std::filesystem::path& original, OpenedModel& model,
             const RecipeContext& context)
      : context_(context),
        model_(model),
        original_(OpenQuantizedOriginal(original, context.request.run.base, context.request.output,
                                        model.catalog)),
        plan_(PlanRestore(model.catalog, original_)) {
    PlanSideFiles(model_, ConfigLikeOriginal(model_.config_text, original_),
                  {.all = context_.request.run.all_side_files, .changes_quantization = true},
                  plan_);
    for (const std::string& name : original_.side_files) {
      if (DescribesQuantization(name)) {
        PutSideFile({name, original_.side_directory / name, {}}, plan_);
      }
    }
  }

  static Recipe MakeRecipe(const std::shared_ptr<RestoreJob>& job) {
    Recipe recipe{.plan = std::shared_ptr<const Plan>(job, &job->plan_),
                  .tensors = TensorsOf(job->model_, job->original_.assembled.get())};
    recipe.converted_tensors = job->original_.weights.size();
    recipe.warnings = job->original_.warnings;
    recipe.hooks.preflight = [job](const PreflightRun& run) {
      PreflightRun of_original = run;
      of_original.warn = [&](formats::Finding warning) {
        run.warn(OfOriginal(job->original_, std::move(warning)));
      };
      std::vector<TensorCount> bad_scales;
      return CheckQuantizedWeights(
          job->model_.catalog, job->original_.config, job->plan_, job->original_.weights,
          DequantizeOptions{.allow_bad_scales = true}, job->context_.request.run.tensor_sha256,
          of_original, job->context_.progress, job->context_.stop, bad_scales);
    };
    return recipe;
  }

 private:
  const RecipeContext context_;
  const OpenedModel& model_;
  const QuantizedOriginal original_;
  Plan plan_;
};

// The form is the original's.
void RequireNoForm(const QuantizeOptions& options) {
  const char* const option = options.to ? "--to" : options.tool ? "--recipe" : "--modules";
  if (!options.to && !options.tool && !options.modules) return;
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{} does not go with --scales-from, whose checkpoint says the form; leave "
                  "one of the two out",
                  option));
}

ConversionKind RestoreConversion(const QuantizeOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kQuantize;
  conversion.title = "Restored the quantised checkpoint";
  conversion.converted_text = "to the original's codes";
  conversion.check_options = [options](const JobRequest&) { RequireNoForm(options); };
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    return RestoreJob::MakeRecipe(
        std::make_shared<RestoreJob>(options.scales_from, model, context));
  };
  return conversion;
}

}  // namespace

ConversionKind QuantizeConversion(const QuantizeOptions& options) {
  if (!options.scales_from.empty()) return RestoreConversion(options);
  ConversionKind conversion;
  conversion.recipe = kQuantize;
  const QuantizeTarget& target = TargetOf(options);
  conversion.title = fmt::format("Quantised to {}", target.name);
  conversion.converted_text = fmt::format("to {}, each with its scales", target.name);
  conversion.make_recipe = [options](const OpenedModel& model, const RecipeContext& context) {
    return QuantizeJob::MakeRecipe(std::make_shared<QuantizeJob>(options, model, context));
  };
  return conversion;
}

}  // namespace dsv3::convert

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/job/runner.h"
#include "convert/model/scale_fmt.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/bf16_to_fp8_original.h"
#include "convert/recipes/check_scales.h"
#include "convert/recipes/first_passes.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/side_files.h"
#include "formats/checkpoint_files.h"
#include "formats/io/existence.h"
#include "formats/manifest.h"

namespace dsv3::convert {
namespace {

// What a bf16-to-fp8 recipe works on.
class Bf16ToFp8Job {
 public:
  Bf16ToFp8Job(const Bf16ToFp8Options& options, OpenedModel& model, const RecipeContext& context)
      : context_(context), options_(options), model_(model) {
    RefuseOtherForms(FindScaledWeights(model_.catalog, model_.config),
                     "which bf16-to-fp8 cannot carry: the output's quantization_config would "
                     "describe FP8 alone, and nothing would say how to read these weights",
                     "give the BF16 checkpoint that they were made from");
    if (options_.scales_from.empty()) {
      PlanByRules();
    } else {
      PlanByOriginal();
    }
    if (auto stale = QuantizationOf(model_.config_text, model_.config)) {
      plan_.plan.removed_config.emplace_back(std::move(stale->member), std::move(stale->json));
    }
  }

  static Recipe MakeRecipe(const std::shared_ptr<Bf16ToFp8Job>& job) {
    Recipe recipe{.plan = std::shared_ptr<const Plan>(job, &job->plan_.plan),
                  .tensors = TensorsOf(job->model_,
                                       job->original_ ? job->original_->assembled.get() : nullptr)};
    recipe.converted_tensors = job->selection_.quantized.size();
    recipe.warnings = job->selection_.warnings;
    recipe.hooks.preflight = [job](const PreflightRun& run) { return job->LookAhead(run); };
    recipe.hooks.prepare = [job](std::span<const std::size_t> files, SourceFiles& sources,
                                 ProgressSink& progress) {
      RunFirstPasses(job->model_.catalog, job->plan_.passes, files, sources,
                     job->context_.request.run, progress, job->context_.stop);
    };
    recipe.add_facts = [job](ConversionReport& report) {
      report.has_original = job->original_.has_value();
      for (const std::uint32_t i : job->selection_.already_fp8) {
        report.already_fp8.push_back(job->model_.catalog.tensors()[i].name);
      }
    };
    return recipe;
  }

 private:
  void PlanByRules() {
    const Fp8Form form = FormOfOptions(options_);
    const std::optional<KeptQuantization> kept = KeptOf(model_, ReadSourceManifest(model_));
    const QuantizationConfig listed =
        kept ? ParseKeptQuantization(*kept, "config.json") : QuantizationConfig();
    selection_ = SelectTensors(model_.catalog, model_.config, options_, form,
                               ModuleList(listed.modules_to_not_convert));
    if (!listed.module_lists.empty()) selection_.module_lists = listed.module_lists;
    if (model_.config.quantization && selection_.already_fp8.empty()) {
      selection_.warnings.push_back(
          {formats::Severity::kWarning, "stale-quantization-config", "config.json", "",
           "config.json: there is a quantization_config, but no weight is FP8; it is replaced, and "
           "only its modules_to_not_convert (or ignored_layers) are honoured"});
    }
    plan_ = PlanBf16ToFp8(model_.catalog, selection_, form, options_, model_.needs_index);
    TakeSideFiles(ConfigForFp8(model_.config_text, model_.config, form, selection_, kept));
  }

  void PlanByOriginal() {
    manifest_ = ReadSourceManifest(model_);
    original_ =
        OpenOriginal(options_, context_.request.run.base, context_.request.output, model_.catalog);
    selection_ = SelectLikeOriginal(model_.catalog, *original_, options_);
    selection_.warnings.insert(selection_.warnings.end(), original_->warnings.begin(),
                               original_->warnings.end());
    plan_ = PlanLikeOriginal(model_.catalog, selection_, *original_, options_);
    TakeSideFiles(ConfigLikeOriginal(model_.config_text, *original_));
  }

  void TakeSideFiles(const std::string& config) {
    PlanSideFiles(model_, config,
                  {.all = context_.request.run.all_side_files, .changes_quantization = true},
                  plan_.plan);
  }

  // Before anything is written: whether the original is the right one.
  SideDigests LookAhead(const PreflightRun& run) {
    SideDigests digests = run.known;
    if (original_) {
      // A scale that is not a number belongs to an unedited block, or is replaced.
      ScaleCheck check = CheckScales(model_.catalog, original_->pairs, /*allow_bad_scales=*/true,
                                     context_.request.run.tensor_sha256, run.sources,
                                     context_.progress, context_.stop);
      for (std::size_t i = 0; i < original_->pairs.size(); ++i) {
        digests.emplace(original_->pairs[i].scale, std::move(check.digests[i]));
      }
      if (auto warning = CheckScaleFmt(model_.catalog, original_->config, original_->pairs,
                                       check.significands)) {
        run.warn(OfOriginal(*original_, *std::move(warning)));
      }
      if (manifest_) RequireOriginalOf(*manifest_, model_.catalog, *original_, digests);
    }
    return digests;
  }

  const RecipeContext context_;
  const Bf16ToFp8Options options_;
  OpenedModel& model_;
  std::optional<formats::Manifest> manifest_;  // with an original only
  std::optional<Original> original_;
  TensorSelection selection_;
  Bf16ToFp8Plan plan_;
};

}  // namespace

std::optional<formats::Manifest> ReadSourceManifest(const OpenedModel& source) {
  const std::filesystem::path path = source.directory / formats::kManifestName;
  if (!formats::EntryExists(path)) {
    return std::nullopt;
  }
  return formats::ParseManifest(formats::ReadSmallFile(path, formats::kMaxManifestBytes),
                                path.string());
}

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

ConversionKind Bf16ToFp8Conversion(const Bf16ToFp8Options& options) {
  ConversionKind conversion;
  conversion.recipe = kBf16ToFp8;
  conversion.title = "Quantised to FP8";
  conversion.converted_text = "to FP8, each with a scale";
  conversion.check_options = [options](const JobRequest&) {
    if (options.scales_from.empty()) FormOfOptions(options);
  };
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    return Bf16ToFp8Job::MakeRecipe(std::make_shared<Bf16ToFp8Job>(options, model, context));
  };
  return conversion;
}

}  // namespace dsv3::convert

#include "convert/recipes/layout.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/report_fact.h"
#include "convert/job/runner.h"
#include "convert/model/scaled_weights.h"
#include "convert/recipes/check_scales.h"
#include "convert/recipes/layout_files.h"
#include "convert/recipes/model_edit.h"
#include "convert/recipes/mtp_edit.h"
#include "convert/recipes/shared_copies.h"
#include "convert/recipes/side_files.h"
#include "convert/recipes/source_fact.h"
#include "convert/recipes/w8a8_model.h"
#include "convert/recipes/weight_dtypes.h"
#include "convert/stream/source_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// By its name; nullptr for another one.
const WritableLayout* FindWritableLayout(std::string_view name) {
  for (const WritableLayout& layout : WritableLayouts()) {
    if (layout.name == name) return &layout;
  }
  return nullptr;
}

// A value under a scale that is none means nothing. What an earlier run freed it had judged.
void RequireGoodScales(const OpenedModel& model, const RecipeContext& context) {
  const ModelTensors tensors = TensorsOf(model);
  std::vector<ScaledWeight> pairs = FindScaledWeights(model.catalog, model.config).pairs;
  std::erase_if(pairs,
                [&](const ScaledWeight& pair) { return !AreFilesThere(tensors, pair.scale); });
  SourceFiles sources(model.catalog, tensors.derived);
  CheckScales(model.catalog, pairs, /*allow_bad_scales=*/false, /*sha256=*/false, sources,
              context.progress, context.stop, {},
              {.advice = "fp8-to-bf16 --allow-bad-scales converts it all the same"});
}

}  // namespace

ConversionKind LayoutConversion(const LayoutOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kLayout;
  conversion.title = "Changed the layout to " + options.to;
  conversion.converted_text = "to another dtype";
  conversion.frees_assembled = true;
  conversion.opening.mtp_may_be_missing = true;
  conversion.opening.config = options.config;
  conversion.opening.takes_config = true;
  conversion.opening.from = options.from;
  const WritableLayout* const layout = FindWritableLayout(options.to);
  conversion.check_options = [layout](const JobRequest&) {
    if (layout == nullptr) {
      throw Error(ErrorCode::kUsage,
                  "--to is missing; give the layout to write, such as --to mindformers-train");
    }
  };
  conversion.make_recipe = [options, layout, opening = conversion.opening](
                               OpenedModel& model, const RecipeContext& context) {
    RequireUsed(opening, model);
    RequireWeights(model);
    const auto made = std::make_shared<LayoutPlan>(PlanLayout(
        model, *layout, options.shard_bytes == 0 ? kDefaultShardBytes : options.shard_bytes));
    made->plan.not_read = model.training.skipped;
    made->plan.options = {TextOption("to", options.to)};
    std::vector<PlannedSideFile> own = std::move(made->plan.side_files);
    made->plan.side_files.clear();
    ModelEdit config;
    config.config = std::move(made->config);
    KeepMtp(model, config);
    PlanSideFiles(model, config.config, {.all = context.request.run.all_side_files}, made->plan);
    const auto is_description = [](const PlannedSideFile& file) {
      return file.name == kW8A8Description;
    };
    const std::vector<PlannedSideFile>& copied = made->plan.side_files;
    if (!made->description.empty() && std::none_of(copied.begin(), copied.end(), is_description)) {
      own.push_back({kW8A8Description, {}, std::move(made->description)});
    }
    for (PlannedSideFile& file : own) made->plan.side_files.push_back(std::move(file));
    std::sort(made->plan.side_files.begin(), made->plan.side_files.end(),
              [](const PlannedSideFile& a, const PlannedSideFile& b) { return a.name < b.name; });
    Recipe recipe{.plan = std::shared_ptr<const Plan>(made, &made->plan),
                  .tensors = TensorsOf(made->source)};
    recipe.converted_tensors = made->converted;
    recipe.copied_tensors = made->copied;
    recipe.warnings = config.warnings;
    recipe.hooks.preflight = [&model, made, context](const PreflightRun& run) {
      if (run.to_make.empty()) return run.known;
      RequireEqualCopies(model, made->copies, context.stop);
      if (made->dequantized) RequireGoodScales(model, context);
      return run.known;
    };
    recipe.add_facts = [made, training = model.training](ConversionReport& report) {
      report.facts.push_back(
          DroppedFact(std::move(made->dropped), "tensor", "that the layout does not hold"));
      report.facts.push_back(FactOf("joined", std::move(made->joined), "tensor",
                                    "kv_b_proj, put together of k_b_proj and v_b_proj"));
      if (!training.stack.empty()) report.facts.push_back(SourceFact(training));
    };
    return recipe;
  };
  return conversion;
}

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/conversion_report.h"
#include "convert/job/run_plan.h"
#include "convert/job/runner.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

// Quantised checkpoint of any form → BF16.
namespace dsv3::convert {

// Of fp8-to-bf16 and dequantize.
struct DequantizeOptions {
  bool allow_bad_scales = false;
};

// The weights of a checkpoint that become BF16, and what goes with their codes.
struct QuantizedModel {
  std::vector<ScaledWeight> weights;   // ordered by their positions
  std::vector<std::uint32_t> dropped;  // tensors beside them that are not scaled with, ascending
};

// Every quantised weight of every form. Throws Error (kBadInput) with the first fault, or the first
// weight that cannot be dequantised and why, saying how many more there are; and when there is none
// at all, naming the method that the config says.
QuantizedModel FindQuantizedModel(const Catalog& catalog, const ModelConfig& config);

// The same where there may be none.
QuantizedModel FindQuantizedWeights(const Catalog& catalog, const ModelConfig& config);

// Each of the weights dequantised, its scales and zeros and the `dropped` tensors left out,
// everything else copied; each tensor stays in the shard it was in, and a shard that held nothing
// else has none. Fills files, options, index and totals; side files but config.json are the
// caller's.
Plan PlanDequantize(const std::string& recipe, const Catalog& catalog,
                    const std::vector<ScaledWeight>& weights,
                    const std::vector<std::uint32_t>& dropped, const DequantizeOptions& options,
                    bool write_index);

// Keeps the files that described the codes: the manifest holds them as it holds what config.json
// lost. One that is no JSON is left behind alone.
void KeepDescriptions(const std::filesystem::path& directory, Plan& plan);

// The preflight of a plan that reads these weights: reads all scales, compares weight_shape with
// the codes, and warns of a scale_fmt that the scales contradict. Adds the bad scales that
// `options` allow to `bad_scales`. Throws Error (kBadInput) as CheckScales and CheckWeightShapes
// do.
SideDigests CheckQuantizedWeights(const Catalog& catalog, const ModelConfig& config,
                                  const Plan& plan, const std::vector<ScaledWeight>& weights,
                                  const DequantizeOptions& options, bool sha256,
                                  const PreflightRun& run, ProgressSink& progress,
                                  const StopToken& stop, std::vector<TensorCount>& bad_scales);

// What the recipe of a conversion to BF16 is made of, beside the plan.
struct DequantizeRecipe {
  QuantizedModel quantized;
  // What the report calls quantized.dropped, as DroppedFact has it.
  std::string_view dropped_what;
  std::string_view dropped_which;
};
// Refers to the model and to what `context` refers to.
Recipe MakeDequantizeRecipe(const OpenedModel& model, const std::string& name,
                            DequantizeRecipe parts, const DequantizeOptions& options,
                            const RecipeContext& context);

// `dsv3-convert dequantize`.
ConversionKind DequantizeConversion(const DequantizeOptions& options = {});

}  // namespace dsv3::convert

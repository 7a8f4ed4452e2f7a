#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/runner.h"
#include "convert/model/model_config.h"
#include "convert/model/module_list.h"
#include "convert/plan/encode_expression.h"
#include "convert/plan/plan.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/quantize_targets.h"

// A checkpoint in BF16, F16 or F32, or one that is dequantised on the way → any form.
namespace dsv3::convert {

inline constexpr char kQuantize[] = "quantize";

// A tensor scale that the files need, and the weights whose values it is found in.
struct TensorScalePass {
  std::vector<std::size_t> files;      // that need it, positions in plan.files
  std::vector<std::uint32_t> weights;  // what holds the values, positions in the catalog
  std::shared_ptr<TensorScale> scale;
};

struct QuantizePlan {
  Plan plan;
  std::vector<TensorScalePass> passes;
  TensorSelection selection;      // positions in the plan of the values
  std::vector<std::string> left;  // weights that are dequantised and stay BF16
};

// `values`: the plan that makes the checkpoint before it is quantised, with each weight's values
// under its name (PlanDequantize). Quantises those that `options` and the model's rules choose, and
// leaves all other tensors as they are there; each stays in the shard it was in. `listed` are
// modules not to convert, which only FP8 honours. Fills files, options and index; side files are
// the caller's. Throws Error: kUsage as TargetOf; kBadInput as SelectWeights, for a weight that is
// no matrix, whose columns the groups do not divide, or whose tensors' names are taken.
QuantizePlan PlanQuantize(const Plan& values, const Catalog& catalog, const ModelConfig& config,
                          const QuantizeOptions& options, const ModuleList& listed,
                          bool write_index);

// `dsv3-convert quantize`.
ConversionKind QuantizeConversion(const QuantizeOptions& options);

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/execute/progress.h"
#include "convert/execute/record.h"
#include "convert/execute/source_files.h"
#include "convert/job.h"
#include "convert/model/model_config.h"
#include "convert/plan/catalog.h"
#include "convert/plan/plan.h"

// FP8 block-scaled checkpoint → BF16.
namespace dsv3::convert {

// An FP8 weight and the tensor that holds its block scales; positions in the catalog.
struct ScaledWeight {
  std::uint32_t weight = 0;
  std::uint32_t scale = 0;
};

// Pairs every FP8 weight X with its scale X + "_scale_inv", in whichever shard that is, ordered by
// the weight's position. Throws Error (kBadInput) that names the tensors: no FP8 tensor at all, a
// weight without scale, a scale without FP8 weight, a weight that is not a 2-D F8_E4M3 matrix, a
// scale of the wrong dtype, of a shape that the config's block size contradicts, or with more than
// 2^18 columns.
std::vector<ScaledWeight> PairScales(const Catalog& catalog, const ModelConfig& config);

// Each FP8 weight dequantised, its scale dropped, everything else copied; each tensor stays in the
// shard it was in, and a shard that held only scales has none. Fills files, options, index and
// totals; side files but config.json are the caller's.
Plan PlanFp8ToBf16(const Catalog& catalog, const ModelConfig& config,
                   const std::vector<ScaledWeight>& pairs, const Fp8ToBf16Options& options,
                   bool write_index);

// Text of config.json for a BF16 model: quantization_config removed, torch_dtype or dtype
// "bfloat16", every other byte as it is. Adds to plan.removed_config what was taken out.
std::string ConfigForBf16(const std::string& config_text, const ModelConfig& config, Plan& plan);

// What reading all scales told.
struct ScaleCheck {
  std::vector<Digests> digests;         // of each pair's scale tensor, in the order of the pairs
  std::vector<TensorCount> bad_scales;  // tensors with NaN, infinite, negative or zero scales
};

// Reads every scale once. Throws Error (kBadInput) at the first bad scale in the catalog's order,
// naming its tensor, row and column, unless `allow_bad_scales`.
ScaleCheck CheckScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                       bool allow_bad_scales, bool sha256, SourceFiles& sources,
                       ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert

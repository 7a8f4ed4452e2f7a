#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/model/model_config.h"
#include "convert/model/scale_fmt.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/plan.h"
#include "convert/recipes/conversion.h"
#include "convert/stream/record.h"
#include "convert/stream/source_files.h"

// FP8 checkpoint with scales of any form → BF16.
namespace dsv3::convert {

// Throws Error (kBadInput) for the first weight in a form that is not read as FP8, naming the form
// and how many more there are; `why` ends the sentence: "which …".
void RefuseOtherForms(const ScaledWeights& found, std::string_view why);

// What FindScaledWeights pairs. Throws Error (kBadInput) with the first fault or unsupported weight
// that it found, saying how many more there are, or when no tensor is FP8 at all.
std::vector<ScaledWeight> PairScales(const Catalog& catalog, const ModelConfig& config);

// Each FP8 weight dequantised, its scale and the scale of its activations (activation_scales.h)
// dropped, everything else copied; each tensor stays in the
// shard it was in, and a shard that held only scales has none. Fills files, options, index and
// totals; side files but config.json are the caller's.
Plan PlanFp8ToBf16(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                   const Fp8ToBf16Options& options, bool write_index);

// Text of config.json for a BF16 model: quantization_config (compression_config, expert_dtype)
// removed, torch_dtype or dtype "bfloat16", every other byte as it is. Adds to plan.removed_config
// what was taken out.
std::string ConfigForBf16(const std::string& config_text, const ModelConfig& config, Plan& plan);

// What reading all scales found.
struct ScaleCheck {
  std::vector<Digests> digests;         // of each pair's scale tensor, in the order of the pairs
  std::vector<TensorCount> bad_scales;  // tensors with NaN, infinite, negative or zero scales
  std::vector<ScaleSignificands> significands;  // of each pair's scales, for CheckScaleFmt
};

// Reads every scale once. Throws Error (kBadInput) at the first bad scale in the catalog's order,
// naming its tensor, row and column, unless `allow_bad_scales`.
ScaleCheck CheckScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                       bool allow_bad_scales, bool sha256, SourceFiles& sources,
                       ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert

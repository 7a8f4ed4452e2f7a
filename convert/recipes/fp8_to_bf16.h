#pragma once

#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/runner.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/plan.h"
#include "convert/recipes/dequantize.h"

// FP8 checkpoint with scales of any form → BF16.
namespace dsv3::convert {

inline constexpr char kFp8ToBf16[] = "fp8-to-bf16";

// Throws Error (kBadInput) for the first weight in a form that is not read as FP8, naming the form
// and how many more there are; `why` goes on with the sentence: "which …". What to do is to run
// `dequantize` where it reads all of the forms, and `otherwise` where it does not.
void RefuseOtherForms(const ScaledWeights& found, std::string_view why, std::string_view otherwise);

// What FindScaledWeights pairs. Throws Error (kBadInput) with the first fault or unsupported weight
// that it found, saying how many more there are, or when no tensor is FP8 at all.
std::vector<ScaledWeight> PairScales(const Catalog& catalog, const ModelConfig& config);

// Each FP8 weight dequantised, its scale and the scale of its activations (activation_scales.h)
// dropped: PlanDequantize of these.
Plan PlanFp8ToBf16(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                   const DequantizeOptions& options, bool write_index);

// `dsv3-convert fp8-to-bf16`.
ConversionKind Fp8ToBf16Conversion(const DequantizeOptions& options = {});

}  // namespace dsv3::convert

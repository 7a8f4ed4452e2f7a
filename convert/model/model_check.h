#pragma once

#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "formats/finding.h"

// Whether a catalog holds what a config predicts. Thread-safe.
namespace dsv3::convert {

// What the message of "missing-tensor" says between the tensor and what to do about it.
inline constexpr std::string_view kNoFileHoldsIt = ", but no file holds it";

// What a "missing-tensor" finding says of the form in which the tensor is there, behind
// kUnderThisName; empty where it is missing.
std::string_view UnknownFormIn(const formats::Finding& finding);

// Tensors that the config predicts and the catalog lacks ("missing-tensor"), or has in another
// shape ("wrong-shape"); errors, in the model's order, all of them. An unknown model_type gives one
// warning ("unknown-model-type"), and DeepSeek-V4 under the names of transformers' modules one
// error
// ("module-names"). Tensors that the config does not predict give no finding here.
// Names under a prefix such as "language_model." are accepted when all of them carry it, and so are
// experts that are fused as transformers does it or packed several values to a word, and kv_b_proj
// that is split.
formats::Findings CheckAgainstModel(const ModelConfig& config, const Catalog& catalog);

}  // namespace dsv3::convert

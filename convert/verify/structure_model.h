#pragma once

#include <cstdint>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/verify/structure_config.h"
#include "formats/finding.h"

// The tensors that a config predicts against those that are there; an internal part of structure.h.
namespace dsv3::convert {

// Adds what CheckAgainstModel finds, and
//   wrong-dtype        (error) a dtype that a tensor of this role cannot have under this config
//   unexpected-fp8     (warning) FP8 where DeepSeek's releases are not quantised
//   unexpected-tensor  (warning) a tensor that the config does not predict, nor any scale of one
// `all_readable` is false where tensors may lie in files that could not be read. Returns how many
// tensors the config predicts.
std::uint64_t CompareWithModel(const StructureConfig& config, const Catalog& catalog,
                               const ScaledWeights& scales, bool all_readable,
                               formats::Findings& findings);

}  // namespace dsv3::convert

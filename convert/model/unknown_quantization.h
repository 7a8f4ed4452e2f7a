#pragma once

#include <optional>
#include <string>

#include "convert/catalog/catalog.h"
#include "convert/model/form_evidence.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "formats/finding.h"

// What a config calls the codes of weights, where that is nothing known here. Thread-safe.
namespace dsv3::convert {

// Such as "the method 'x' (quant_method) of config.json is not known"; empty where it is known, or
// where the config says nothing of the codes.
std::string DescribeUnknownQuantization(const FormEvidence& evidence);

// Of a checkpoint whose weights are integers or FP4 and are described in such a way: a warning of
// kind "unknown-quantization", which names the first of the weights. `weights` are those of the
// catalog and the config.
std::optional<formats::Finding> FindUnknownQuantization(const Catalog& catalog,
                                                        const ModelConfig& config,
                                                        const ScaledWeights& weights);

// Of a checkpoint with weights of integers which nothing explains, neither the config nor a tensor
// beside them: a warning of kind "unexplained-codes", which names the first one.
std::optional<formats::Finding> FindUnexplainedCodes(const Catalog& catalog,
                                                     const ScaledWeights& weights);

}  // namespace dsv3::convert

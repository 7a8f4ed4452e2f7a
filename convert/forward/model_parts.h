#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/forward/modules.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// What is before and behind the layers of a model; an internal part of forward.h.
namespace dsv3::convert {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kFinalNormName[] = "model.norm";

// Rows of the embedding of this name.
Rows Embed(Modules& modules, const ModelConfig& config, const std::string& name,
           const std::vector<std::uint32_t>& tokens);
// The matrix that makes the logits.
WeightRows HeadOf(const ModelWeights& weights, const ModelConfig& config);

// About how many bytes of weights so many tokens read: all but the embedding and MTP layers, and of
// the experts as many as the tokens choose at most.
std::uint64_t EstimateBytes(const ModelWeights& weights, const ModelConfig& config,
                            std::uint64_t tokens);

}  // namespace dsv3::convert

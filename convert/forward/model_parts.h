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

// Rows of the embedding of this name.
Rows Embed(Modules& modules, const ModelConfig& config, const std::string& name,
           const std::vector<std::uint32_t>& tokens);
Rows FinalNorm(Modules& modules, const ModelConfig& config, const ForwardConfig& forward,
               const Rows& stream);
// The matrix that makes the logits.
WeightRows HeadOf(const ModelWeights& weights, const ModelConfig& config);

}  // namespace dsv3::convert

#include "convert/forward/model_parts.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "convert/model/layer_kinds.h"

namespace dsv3::convert {

Rows Embed(Modules& modules, const ModelConfig& config, const std::string& name,
           const std::vector<std::uint32_t>& tokens) {
  ModelWeights& weights = modules.weights();
  const WeightRows matrix = weights.Matrix(name, config.vocab_size, config.hidden_size);
  Rows rows(tokens.size(), static_cast<std::size_t>(config.hidden_size));
  const std::vector<std::uint64_t> ids(tokens.begin(), tokens.end());
  weights.ReadRows(matrix, ids, rows.values.data());
  modules.Round(rows.values);
  return rows;
}

WeightRows HeadOf(const ModelWeights& weights, const ModelConfig& config) {
  return weights.Matrix(config.tie_word_embeddings ? kEmbeddingName : "lm_head.weight",
                        config.vocab_size, config.hidden_size);
}

std::uint64_t EstimateBytes(const ModelWeights& weights, const ModelConfig& config,
                            std::uint64_t tokens) {
  double bytes = 0;
  for (const CatalogTensor& tensor : weights.catalog().tensors()) {
    const std::optional<std::uint64_t> layer = LayerOf(tensor.name, weights.prefix());
    const bool is_embedding = tensor.name.ends_with("embed_tokens.weight");
    if (is_embedding || (layer && *layer >= config.num_hidden_layers)) continue;
    const bool is_expert = tensor.name.find(".mlp.experts.") != std::string::npos;
    const double share =
        is_expert ? std::min(1.0, static_cast<double>(tokens * config.num_experts_per_tok) /
                                      static_cast<double>(config.n_routed_experts))
                  : 1.0;
    bytes += share * static_cast<double>(tensor.extent.length);
  }
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace dsv3::convert

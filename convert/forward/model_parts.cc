#include "convert/forward/model_parts.h"

#include <cstddef>

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

Rows FinalNorm(Modules& modules, const ModelConfig& config, const ForwardConfig& forward,
               const Rows& stream) {
  return modules.RmsNorm("model.norm", config.hidden_size, forward.rms_norm_eps, stream);
}

WeightRows HeadOf(const ModelWeights& weights, const ModelConfig& config) {
  return weights.Matrix(config.tie_word_embeddings ? kEmbeddingName : "lm_head.weight",
                        config.vocab_size, config.hidden_size);
}

}  // namespace dsv3::convert

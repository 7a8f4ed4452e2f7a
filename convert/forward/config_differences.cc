#include "convert/forward/config_differences.h"

#include <cstdint>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

class Differences {
 public:
  template <typename T>
  void Add(const char* name, const T& a, const T& b) {
    if (a != b) fields_.emplace_back(name);
  }
  std::vector<std::string> Take() { return std::move(fields_); }

 private:
  std::vector<std::string> fields_;
};

}  // namespace

std::vector<std::string> StructureDifferences(const ModelConfig& a, const ModelConfig& b) {
  Differences found;
  found.Add("q_lora_rank", a.q_lora_rank, b.q_lora_rank);
  found.Add("first_k_dense_replace", a.first_k_dense_replace, b.first_k_dense_replace);
  found.Add("moe_layer_freq", a.moe_layer_freq, b.moe_layer_freq);
  found.Add("mlp_layer_types", a.moe_layers, b.moe_layers);
  found.Add("n_routed_experts", a.n_routed_experts, b.n_routed_experts);
  found.Add("n_shared_experts", a.n_shared_experts, b.n_shared_experts);
  found.Add("index_n_heads", a.index_n_heads, b.index_n_heads);
  found.Add("indexer_types", a.indexer_layers, b.indexer_layers);
  found.Add("num_nextn_predict_layers", a.num_nextn_predict_layers, b.num_nextn_predict_layers);
  return found.Take();
}

std::vector<std::string> AttentionDifferences(const ModelConfig& a, const ForwardConfig& a_forward,
                                              const ModelConfig& b,
                                              const ForwardConfig& b_forward) {
  Differences found;
  found.Add("num_attention_heads", a.num_attention_heads, b.num_attention_heads);
  found.Add("qk_nope_head_dim", a.qk_nope_head_dim, b.qk_nope_head_dim);
  found.Add("qk_rope_head_dim", a.qk_rope_head_dim, b.qk_rope_head_dim);
  found.Add("v_head_dim", a.v_head_dim, b.v_head_dim);
  found.Add("rope_theta", a_forward.rope_theta, b_forward.rope_theta);
  found.Add("rope_interleave", a_forward.rope_pairs, b_forward.rope_pairs);
  if (a_forward.yarn.has_value() != b_forward.yarn.has_value()) {
    found.Add("rope_scaling", 0, 1);
  } else {
    const YarnScaling x = a_forward.yarn.value_or(YarnScaling{});
    const YarnScaling y = b_forward.yarn.value_or(YarnScaling{});
    found.Add("rope_scaling.factor", x.factor, y.factor);
    found.Add("rope_scaling.original_max_position_embeddings", x.original_positions,
              y.original_positions);
    found.Add("rope_scaling.beta_fast", x.beta_fast, y.beta_fast);
    found.Add("rope_scaling.beta_slow", x.beta_slow, y.beta_slow);
    found.Add("rope_scaling.truncate", x.truncate, y.truncate);
    // Several of these may give the same factors.
    if (a_forward.rotary_factor != b_forward.rotary_factor ||
        a_forward.softmax_scale != b_forward.softmax_scale) {
      found.Add("rope_scaling.mscale", x.mscale, y.mscale);
      found.Add("rope_scaling.mscale_all_dim", x.mscale_all_dim, y.mscale_all_dim);
      found.Add("rope_scaling.attention_factor", x.attention_factor, y.attention_factor);
    }
  }
  found.Add("index_topk", a_forward.index_topk, b_forward.index_topk);
  // Which dimensions the indexer turns is its model_type's.
  found.Add("model_type", a_forward.index_rope_pairs, b_forward.index_rope_pairs);
  return found.Take();
}

std::vector<std::string> RouterDifferences(const ModelConfig& a, const ForwardConfig& a_forward,
                                           const ModelConfig& b, const ForwardConfig& b_forward) {
  Differences found;
  found.Add("scoring_func", a_forward.softmax_router, b_forward.softmax_router);
  found.Add("topk_method", a_forward.group_score, b_forward.group_score);
  if (a_forward.group_score != GroupScore::kNone) {
    found.Add("n_group", a.n_group, b.n_group);
    found.Add("topk_group", a_forward.topk_group, b_forward.topk_group);
  }
  found.Add("num_experts_per_tok", a.num_experts_per_tok, b.num_experts_per_tok);
  found.Add("norm_topk_prob", a_forward.norm_topk_prob, b_forward.norm_topk_prob);
  found.Add("routed_scaling_factor", a_forward.routed_scaling_factor,
            b_forward.routed_scaling_factor);
  return found.Take();
}

void RequireComparable(const ModelConfig& a, const ModelConfig& b) {
  const auto require = [](const char* name, std::uint64_t of_a, std::uint64_t of_b) {
    if (of_a == of_b) return;
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("the models cannot be compared: {} is {} in MODEL and {} in OTHER; give two "
                    "forms of one model",
                    name, of_a, of_b));
  };
  require("vocab_size", a.vocab_size, b.vocab_size);
  require("hidden_size", a.hidden_size, b.hidden_size);
  require("num_hidden_layers", a.num_hidden_layers, b.num_hidden_layers);
}

}  // namespace dsv3::convert

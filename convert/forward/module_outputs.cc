#include "convert/forward/module_outputs.h"

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"

namespace dsv3::convert {
namespace {

class Listing {
 public:
  Listing(const ModelConfig& config, AttentionForm form) : config_(config), form_(form) {}

  std::vector<ModuleOutput> List(std::uint64_t tokens, std::uint64_t mtp_tokens) {
    rows_ = tokens;
    Add("model.embed_tokens", config_.hidden_size);
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) AddLayer(layer);
    Add("model.norm", config_.hidden_size);
    Add("lm_head", config_.vocab_size);
    if (mtp_tokens == 0) return outputs_;
    rows_ = mtp_tokens;
    const std::uint64_t layer = config_.num_hidden_layers;
    const std::string name = fmt::format("model.layers.{}.", layer);
    for (const char* const part : {"enorm", "hnorm", "eh_proj"}) {
      Add(name + part, config_.hidden_size);
    }
    AddLayer(layer);
    Add(name + "shared_head.norm", config_.hidden_size);
    Add(name + "shared_head.head", config_.vocab_size);
    return outputs_;
  }

 private:
  void Add(std::string module, std::uint64_t columns) {
    outputs_.push_back({std::move(module), rows_, columns});
  }

  void AddLayer(std::uint64_t layer) {
    const std::string name = fmt::format("model.layers.{}", layer);
    const std::uint64_t hidden = config_.hidden_size;
    Add(name + ".input_layernorm", hidden);
    AddAttention(name + ".self_attn", HasIndexer(config_, layer));
    Add(name + ".post_attention_layernorm", hidden);
    const std::string mlp = name + ".mlp";
    if (IsMoeLayer(config_, layer)) {
      Add(mlp + ".gate", config_.n_routed_experts);
      Add(mlp + ".experts", hidden);
      if (config_.n_shared_experts > 0) {
        AddMlp(mlp + ".shared_experts", config_.n_shared_experts * config_.moe_intermediate_size);
      }
      Add(mlp, hidden);
    } else {
      AddMlp(mlp, config_.intermediate_size);
    }
    Add(name, hidden);
  }

  void AddAttention(const std::string& name, bool has_indexer) {
    const std::uint64_t heads = config_.num_attention_heads;
    const std::uint64_t query = heads * (config_.qk_nope_head_dim + config_.qk_rope_head_dim);
    if (config_.q_lora_rank == 0) {
      Add(name + ".q_proj", query);
    } else {
      Add(name + ".q_a_proj", config_.q_lora_rank);
      Add(name + ".q_a_layernorm", config_.q_lora_rank);
      Add(name + ".q_b_proj", query);
    }
    Add(name + ".kv_a_proj_with_mqa", config_.kv_lora_rank + config_.qk_rope_head_dim);
    Add(name + ".kv_a_layernorm", config_.kv_lora_rank);
    if (has_indexer) {
      Add(name + ".indexer.wq_b", config_.index_n_heads * config_.index_head_dim);
      Add(name + ".indexer.wk", config_.index_head_dim);
      Add(name + ".indexer.k_norm", config_.index_head_dim);
      Add(name + ".indexer.weights_proj", config_.index_n_heads);
    }
    if (form_ == AttentionForm::kNaive) {
      Add(name + ".kv_b_proj", heads * (config_.qk_nope_head_dim + config_.v_head_dim));
    }
    Add(name + ".o_proj", config_.hidden_size);
    Add(name, config_.hidden_size);
  }

  void AddMlp(const std::string& name, std::uint64_t width) {
    Add(name + ".gate_proj", width);
    Add(name + ".up_proj", width);
    Add(name + ".down_proj", config_.hidden_size);
    Add(name, config_.hidden_size);
  }

  const ModelConfig& config_;
  const AttentionForm form_;
  std::uint64_t rows_ = 0;
  std::vector<ModuleOutput> outputs_;
};

}  // namespace

std::vector<ModuleOutput> ListModuleOutputs(const ModelConfig& config, AttentionForm form,
                                            std::uint64_t tokens, std::uint64_t mtp_tokens) {
  return Listing(config, form).List(tokens, mtp_tokens);
}

}  // namespace dsv3::convert

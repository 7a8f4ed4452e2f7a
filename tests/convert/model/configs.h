#pragma once

#include <string>

#include <nlohmann/json.hpp>

// Configurations of real models, as far as their tensors depend on them.
namespace dsv3::convert::testing {

inline nlohmann::json V3Config() {
  return nlohmann::json::parse(R"({
    "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1, "num_attention_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "moe_layer_freq": 1, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "noaux_tc",
    "tie_word_embeddings": false,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]}})");
}

// DeepSeek-V4-Flash, which has 69,187 tensors with scales.
inline nlohmann::json V4FlashConfig() {
  nlohmann::json config = nlohmann::json::parse(R"({
    "model_type": "deepseek_v4", "vocab_size": 129280, "hidden_size": 4096, "head_dim": 512,
    "moe_intermediate_size": 2048, "num_hidden_layers": 43, "num_nextn_predict_layers": 1,
    "num_attention_heads": 64, "num_key_value_heads": 1, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 6, "num_hash_layers": 3, "q_lora_rank": 1024,
    "qk_rope_head_dim": 64, "o_groups": 8, "o_lora_rank": 1024, "hc_mult": 4,
    "index_n_heads": 64, "index_head_dim": 128, "topk_method": "noaux_tc",
    "tie_word_embeddings": false, "expert_dtype": "fp4",
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}})");
  nlohmann::json ratios = {0, 0};
  for (int i = 2; i < 43; ++i) ratios.push_back(i % 2 == 0 ? 4 : 128);
  ratios.push_back(0);
  config["compress_ratios"] = ratios;
  return config;
}

// V3's names with dimensions of a few elements.
inline nlohmann::json SmallConfig() {
  nlohmann::json config = V3Config();
  config.update({{"vocab_size", 32},
                 {"hidden_size", 8},
                 {"intermediate_size", 12},
                 {"moe_intermediate_size", 6},
                 {"num_hidden_layers", 2},
                 {"num_attention_heads", 2},
                 {"n_routed_experts", 4},
                 {"first_k_dense_replace", 1},
                 {"q_lora_rank", 5},
                 {"kv_lora_rank", 4},
                 {"qk_nope_head_dim", 3},
                 {"qk_rope_head_dim", 2},
                 {"v_head_dim", 3}});
  return config;
}

}  // namespace dsv3::convert::testing

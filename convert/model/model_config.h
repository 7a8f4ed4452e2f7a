#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/dequantize.h"

namespace dsv3::convert {

// config.json's quantization_config, as far as this toolkit acts on it.
struct QuantizationConfig {
  std::string quant_method;  // "fp8" …
  std::string fmt;           // "e4m3"; empty when absent
  std::optional<quant::BlockShape> weight_block_size;
  std::string scale_fmt;  // "ue8m0"; empty when absent
  std::vector<std::string> modules_to_not_convert;
};

// The dimensions of a DeepSeek-V3 family model, under the names of config.json. Fields that a
// config leaves out have the value that transformers' DeepseekV3Config gives them, except
// num_nextn_predict_layers, whose absence means 0.
struct ModelConfig {
  std::string model_type;
  // Where the text model's fields are: "" at top level, "text_config/" when nested.
  std::string prefix;
  // Whether the architecture is one whose tensors ExpectedTensors derives.
  bool known = false;
  std::uint64_t vocab_size = 0;
  std::uint64_t hidden_size = 0;
  std::uint64_t intermediate_size = 0;
  std::uint64_t moe_intermediate_size = 0;
  std::uint64_t num_hidden_layers = 0;
  std::uint64_t num_nextn_predict_layers = 0;
  std::uint64_t num_attention_heads = 0;
  std::uint64_t n_routed_experts = 0;  // 0: no mixture of experts
  std::uint64_t n_shared_experts = 0;
  std::uint64_t num_experts_per_tok = 0;
  std::uint64_t first_k_dense_replace = 0;
  std::uint64_t moe_layer_freq = 1;
  std::uint64_t q_lora_rank = 0;  // 0: plain q_proj
  std::uint64_t kv_lora_rank = 0;
  std::uint64_t qk_nope_head_dim = 0;
  std::uint64_t qk_rope_head_dim = 0;
  std::uint64_t v_head_dim = 0;
  std::uint64_t index_n_heads = 0;  // V3.2's indexer; 0: none
  std::uint64_t index_head_dim = 0;
  bool attention_bias = false;
  bool router_bias = false;  // e_score_correction_bias: topk_method noaux_tc
  bool tie_word_embeddings = false;
  std::optional<QuantizationConfig> quantization;
};

// Parses config.json. Throws Error (kBadInput) when it is not a JSON object, a field has the wrong
// type, or a known model lacks a dimension. `file` is the name for errors.
ModelConfig ParseModelConfig(std::string_view text, const std::string& file);

}  // namespace dsv3::convert

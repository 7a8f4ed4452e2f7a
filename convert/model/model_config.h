#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/dequantize.h"

namespace dsv3::convert {

// The most tensors that a config may predict; the family's largest have about 70,000.
inline constexpr std::uint64_t kMaxExpectedTensors = 262'144;

// How compressed-tensors stores the weights of one group of modules (config_groups).
struct QuantizationGroup {
  std::string name;    // "group_0"
  std::string format;  // its own, else the config's: "float-quantized", "mxfp8-quantized" …
  std::uint64_t num_bits = 0;
  std::string type;      // "float" or "int"
  std::string strategy;  // "tensor", "channel", "block", "group" …
  std::optional<quant::BlockShape> block_structure;
  std::uint64_t group_size = 0;  // columns; 0 when absent
  bool symmetric = true;         // whether codes have no zero points
};

// config.json's quantization_config, as far as this toolkit acts on it. Strings are empty when
// absent.
struct QuantizationConfig {
  // The path of the member, in the form of the JSON functions: "quantization_config",
  // "text_config/quantization_config", or compressed-tensors' older "compression_config".
  std::string member;
  std::string quant_method;  // "fp8", "compressed-tensors" …
  std::string fmt;           // "e4m3"
  std::optional<quant::BlockShape> weight_block_size;
  std::string scale_fmt;  // "ue8m0"
  // Modules that are not quantised, each once, and the members that list them: some tools call the
  // list "ignored_layers". Where there is none, module_lists holds "modules_to_not_convert" alone.
  std::vector<std::string> modules_to_not_convert;
  std::vector<std::string> module_lists;
  std::string quant_algo;  // of ModelOpt: "NVFP4", "FP8" …
  // compressed-tensors:
  std::string format;                     // "float-quantized" …
  std::vector<QuantizationGroup> groups;  // those with weights, by name
  std::vector<std::string> ignore;        // modules, or "re:" patterns
};

// hf_quant_config.json beside config.json, where ModelOpt describes what it quantised.
struct ModelOptDescription {
  std::string quant_algo;                    // "FP8", "NVFP4", "W4A8_AWQ", "MIXED_PRECISION" …
  std::vector<std::string> exclude_modules;  // globs of modules that are not quantised
};

// What DeepSeek-V4 has in place of V3's attention, and beside it.
struct V4Dimensions {
  std::uint64_t head_dim = 0;
  std::uint64_t o_groups = 0;         // groups of heads, whose outputs wo_a projects apart
  std::uint64_t o_lora_rank = 0;      // rows of wo_a for each group
  std::uint64_t hc_mult = 0;          // residual streams
  std::uint64_t num_hash_layers = 0;  // first layers, in which a table gives a token's experts
  // How many positions the compressor of each main layer joins; 0: it has none.
  std::vector<std::uint64_t> compress_ratios;
  // Of layers that have an indexer, whose compressors see overlapping windows.
  std::uint64_t indexed_ratio = 4;
  // The tensors below "mtp." are those of a DSpark draft, which are not predicted.
  bool has_draft = false;
};

// The dimensions of a DeepSeek-V3 family model, under the names of config.json. Fields that a
// config leaves out have the value that the model_type's configuration class in transformers gives
// them, except num_nextn_predict_layers, whose absence means 0; a model_type without such a class
// (kimi_k2, deepseek_v2), and deepseek_v4, must state its dimensions.
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
  std::uint64_t n_group = 1;  // of the router's experts
  // IsMoeLayer of layer_kinds.h says which layers have experts, by these three:
  std::uint64_t first_k_dense_replace = 0;
  std::uint64_t moe_layer_freq = 1;
  std::vector<bool> moe_layers;   // mlp_layer_types: whether a layer has experts; empty when absent
  std::uint64_t q_lora_rank = 0;  // 0: plain q_proj
  std::uint64_t kv_lora_rank = 0;
  std::uint64_t qk_nope_head_dim = 0;
  std::uint64_t qk_rope_head_dim = 0;
  std::uint64_t v_head_dim = 0;
  // V3.2's indexer; 0: none. HasIndexer of layer_kinds.h says which layers hold one.
  std::uint64_t index_n_heads = 0;
  std::uint64_t index_head_dim = 0;
  std::vector<bool> indexer_layers;  // whether a layer holds its own; empty: every layer does
  // Whether MTP layers hold copies of the embedding and the head, as DeepSeek's do.
  bool mtp_embedding_copies = true;
  bool attention_bias = false;
  // The MTP layer of a model alone, as SGLang loads it (the architecture's name ends with NextN):
  // its layer 0 is an MTP layer without copies of embedding and head, and there is nothing else.
  // Then num_hidden_layers is 0.
  bool is_nextn = false;
  bool router_bias = false;  // e_score_correction_bias: topk_method noaux_tc
  bool tie_word_embeddings = false;
  std::string expert_dtype;  // V4: "fp4" or "fp8"; empty when absent
  // DeepSeek-V4, whose tensors have names of their own. Of the fields above it has not
  // intermediate_size, kv_lora_rank and qk_nope_head_dim, which are 0; v_head_dim is head_dim.
  std::optional<V4Dimensions> v4;
  std::optional<QuantizationConfig> quantization;
  // Filled in by who opens the directory, since it is another file.
  std::optional<ModelOptDescription> modelopt;
};

// Parses config.json. A config without dimensions of its own but with an object text_config is read
// from there. NaN, Infinity and -Infinity are read as Python writes them; a field of this config
// must be finite. Throws Error (kBadInput) when it is not a JSON object, nests deeper than 127
// levels, holds a field twice, or quantization_config is malformed; for a known model_type also
// when a field has the wrong type, a dimension is missing, zero or too large to be one, a list of
// layers has another length or contradicts the numbers, or the model would have more than
// kMaxExpectedTensors tensors. With an unknown model_type known is false, and fields
// that are absent or of another type are 0. `file` is the name for errors.
ModelConfig ParseModelConfig(std::string_view text, const std::string& file);

}  // namespace dsv3::convert

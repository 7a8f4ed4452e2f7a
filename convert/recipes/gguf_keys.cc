#include "convert/recipes/gguf_keys.h"

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/config_fields-inl.h"
#include "convert/model/forward_config.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;
using formats::GgufKeys;
using formats::GgufType;

constexpr char kGenerationConfig[] = "generation_config.json";
// llama.cpp's numbers of routers' scores.
constexpr std::uint32_t kSoftmax = 1;
constexpr std::uint32_t kSigmoid = 2;

// llama.cpp's number of a file whose weights have a type.
std::uint32_t FileTypeOf(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kBF16:
      return 32;
    default:
      return 7;  // Q8_0
  }
}

class KeyWriter {
 public:
  KeyWriter(const OpenedModel& model, GgufKeys& keys)
      : config_(model.config),
        forward_(ParseForwardConfig(model.config_text, model.config, formats::kConfigName)),
        root_(ParseConfigObject(model.config_text, formats::kConfigName)),
        text_(config_.prefix.empty() ? root_ : root_.at("text_config")),
        keys_(keys) {}

  void Write() {
    Number("block_count", config_.num_hidden_layers);
    Number("context_length", ContextLength());
    Number("embedding_length", config_.hidden_size);
    Number("feed_forward_length", config_.intermediate_size);
    Number("vocab_size", config_.vocab_size);
    Number("leading_dense_block_count", LeadingDenseBlocks());
    WriteAttention();
    WriteExperts();
    WriteRope();
  }

 private:
  void Number(std::string_view key, std::uint64_t value) {
    keys_.emplace_back(fmt::format("deepseek2.{}", key), static_cast<std::uint32_t>(value));
  }
  void Real(std::string_view key, double value) {
    keys_.emplace_back(fmt::format("deepseek2.{}", key), static_cast<float>(value));
  }
  const Json* Find(const char* name) const {
    const auto found = text_.find(name);
    return found == text_.end() || found->is_null() ? nullptr : &*found;
  }

  std::uint64_t ContextLength() const {
    const Json* const value = Find("max_position_embeddings");
    if (value == nullptr || !value->is_number_integer() || *value <= 0 ||
        *value > std::numeric_limits<std::uint32_t>::max()) {
      FailConfig(formats::kConfigName,
                 "max_position_embeddings is missing or not a positive number, and a GGUF file "
                 "needs it; take the config.json that belongs to the weights");
    }
    return value->get<std::uint64_t>();
  }

  std::uint64_t LeadingDenseBlocks() const {
    if (config_.n_routed_experts == 0) return config_.num_hidden_layers;
    if (!config_.moe_layers.empty() || config_.moe_layer_freq != 1) {
      FailConfig(formats::kConfigName,
                 "layers with experts and without are mixed (moe_layer_freq, mlp_layer_types), "
                 "and a GGUF file of architecture deepseek2 has all dense layers first");
    }
    return config_.first_k_dense_replace;
  }

  void WriteAttention() {
    Number("attention.head_count", config_.num_attention_heads);
    Number("attention.head_count_kv", 1);  // MLA as one head that all share
    if (config_.q_lora_rank != 0) Number("attention.q_lora_rank", config_.q_lora_rank);
    Number("attention.kv_lora_rank", config_.kv_lora_rank);
    Number("attention.key_length", config_.kv_lora_rank + config_.qk_rope_head_dim);
    Number("attention.value_length", config_.kv_lora_rank);
    Number("attention.key_length_mla", config_.qk_nope_head_dim + config_.qk_rope_head_dim);
    Number("attention.value_length_mla", config_.v_head_dim);
    Real("attention.layer_norm_rms_epsilon", forward_.rms_norm_eps);
  }

  void WriteExperts() {
    Number("expert_feed_forward_length", config_.n_routed_experts == 0
                                             ? config_.intermediate_size
                                             : config_.moe_intermediate_size);
    Number("expert_shared_count", config_.n_shared_experts);
    if (config_.n_routed_experts == 0) return;
    Number("expert_count", config_.n_routed_experts);
    Number("expert_used_count", config_.num_experts_per_tok);
    Number("expert_group_count", config_.n_group);
    Number("expert_group_used_count", forward_.topk_group);
    Real("expert_weights_scale", forward_.routed_scaling_factor);
    if (forward_.norm_topk_prob) keys_.emplace_back("deepseek2.expert_weights_norm", true);
    Number("expert_gating_func", forward_.softmax_router ? kSoftmax : kSigmoid);
  }

  void WriteRope() {
    Number("rope.dimension_count", config_.qk_rope_head_dim);
    Real("rope.freq_base", forward_.rope_theta);
    if (!forward_.yarn) return;
    const Json* rope = Find("rope_parameters");
    if (rope == nullptr) rope = Find("rope_scaling");
    keys_.emplace_back("deepseek2.rope.scaling.type", std::string("yarn"));
    Real("rope.scaling.factor", forward_.yarn->factor);
    Number("rope.scaling.original_context_length",
           static_cast<std::uint64_t>(forward_.yarn->original_positions));
    const auto has = [&](const char* name) {
      return rope != nullptr && rope->is_object() && rope->contains(name) &&
             rope->at(name).is_number();
    };
    if (has("beta_fast")) Real("rope.scaling.yarn_beta_fast", forward_.yarn->beta_fast);
    if (has("beta_slow")) Real("rope.scaling.yarn_beta_slow", forward_.yarn->beta_slow);
    if (forward_.yarn->attention_factor) {
      Real("rope.scaling.yarn_attn_factor", *forward_.yarn->attention_factor);
    }
    if (has("mscale_all_dim")) {
      Real("rope.scaling.yarn_log_multiplier", 0.1 * forward_.yarn->mscale_all_dim);
    }
  }

  const ModelConfig& config_;
  const ForwardConfig forward_;
  const Json root_;
  const Json& text_;
  GgufKeys& keys_;
};

void RequireArchitecture(const ModelConfig& config) {
  const bool known = config.model_type == "deepseek_v2" || config.model_type == "deepseek_v3" ||
                     config.model_type == "kimi_k2";
  if (known && config.index_n_heads == 0 && config.kv_lora_rank != 0) return;
  throw Error(ErrorCode::kBadInput,
              fmt::format("config.json: model_type {} is not written as GGUF; to-gguf writes "
                          "architecture deepseek2: DeepSeek-V2, V3 and R1, Kimi K2, Moonlight",
                          QuoteForMessage(config.model_type)),
              {formats::kConfigName, ""});
}

// The recommended sampling, where the model says one.
void AddSampling(const OpenedModel& model, GgufKeys& keys) {
  const std::filesystem::path path = model.directory / kGenerationConfig;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return;
  const Json json =
      ParseConfigObject(formats::ReadSmallFile(path, formats::kMaxConfigBytes), kGenerationConfig);
  const auto add = [&](const char* field, const char* key) {
    const auto found = json.find(field);
    if (found != json.end() && found->is_number()) {
      keys.emplace_back(fmt::format("general.sampling.{}", key),
                        static_cast<float>(found->get<double>()));
    }
  };
  add("temperature", "temp");
  add("top_p", "top_p");
}

}  // namespace

GgufKeys ModelGgufKeys(const OpenedModel& model, const std::string& name, GgufType type) {
  RequireArchitecture(model.config);
  GgufKeys keys;
  keys.emplace_back("general.architecture", std::string("deepseek2"));
  keys.emplace_back("general.type", std::string("model"));
  keys.emplace_back("general.name", name);
  keys.emplace_back("general.file_type", FileTypeOf(type));
  keys.emplace_back("general.quantization_version", std::uint32_t{2});
  AddSampling(model, keys);
  KeyWriter(model, keys).Write();
  return keys;
}

}  // namespace dsv3::convert

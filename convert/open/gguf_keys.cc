#include "convert/open/gguf_keys.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/config_fields-inl.h"
#include "convert/model/forward_config.h"
#include "convert/model/layer_kinds.h"
#include "convert/open/gguf_keys_v4.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;
using formats::GgufKeys;

constexpr char kGenerationConfig[] = "generation_config.json";
// llama.cpp's numbers of routers' scores.
constexpr std::uint32_t kSoftmax = 1;
constexpr std::uint32_t kSigmoid = 2;

// Whether llama.cpp knows by the number of layers that a deepseek2 without q_lora_rank has none; of
// any other it wants the key, and takes 0.
bool KnownWithoutQLora(const ModelConfig& config) {
  return config.num_hidden_layers == 26 || config.num_hidden_layers == 27;
}

class KeyWriter {
 public:
  KeyWriter(const OpenedModel& model, const GgufTarget& target, GgufKeys& keys)
      : target_(target),
        architecture_(NameOfGgufArchitecture(target.architecture)),
        config_(model.config),
        forward_(ParseForwardConfig(model.config_text, model.config, formats::kConfigName)),
        root_(ParseConfigObject(model.config_text, formats::kConfigName)),
        text_(config_.prefix.empty() ? root_ : root_.at("text_config")),
        keys_(keys) {}

  void Write() {
    if (!forward_.rope_pairs) {
      FailConfig(formats::kConfigName,
                 "rope_interleave is false, and llama.cpp rotates neighbouring dimensions");
    }
    Number("block_count", config_.num_hidden_layers + target_.mtp_layers);
    if (target_.mtp_layers > 0) Number("nextn_predict_layers", target_.mtp_layers);
    Number("context_length", ContextLength());
    Number("embedding_length", config_.hidden_size);
    Number("feed_forward_length", config_.intermediate_size);
    Number("vocab_size", config_.vocab_size);
    Number("leading_dense_block_count", LeadingDenseBlocks());
    WriteAttention();
    WriteExperts();
    WriteRope();
    if (target_.has_indexer()) WriteIndexer();
  }

 private:
  void Number(std::string_view key, std::uint64_t value) {
    Add(key, static_cast<std::uint32_t>(value));
  }
  void Real(std::string_view key, double value) { Add(key, static_cast<float>(value)); }
  template <typename Value>
  void Add(std::string_view key, Value value) {
    keys_.emplace_back(fmt::format("{}.{}", architecture_, key), std::move(value));
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
    // A list may say what the number does: transformers 5 writes one into every config.
    const bool listed = !config_.moe_layers.empty() || config_.moe_layer_freq != 1;
    const std::uint64_t dense = listed ? FirstMoeLayer(config_) : config_.first_k_dense_replace;
    for (std::uint64_t layer = dense; layer < config_.num_hidden_layers; ++layer) {
      if (IsMoeLayer(config_, layer)) continue;
      FailConfig(formats::kConfigName,
                 fmt::format("layer {} has no experts though layer {} has some (moe_layer_freq, "
                             "mlp_layer_types), and a GGUF file has all dense layers first",
                             layer, dense));
    }
    return dense;
  }

  void WriteAttention() {
    Number("attention.head_count", config_.num_attention_heads);
    Number("attention.head_count_kv", 1);  // MLA as one head that all share
    if (config_.q_lora_rank != 0 || !KnownWithoutQLora(config_)) {
      Number("attention.q_lora_rank", config_.q_lora_rank);
    }
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
    RequireGroups();
    Number("expert_count", config_.n_routed_experts);
    Number("expert_used_count", config_.num_experts_per_tok);
    Number("expert_group_count", config_.n_group);
    Number("expert_group_used_count", forward_.topk_group);
    Real("expert_weights_scale", forward_.routed_scaling_factor);
    if (forward_.norm_topk_prob) Add("expert_weights_norm", true);
    Number("expert_gating_func", forward_.softmax_router ? kSoftmax : kSigmoid);
  }

  // What llama.cpp's loader asserts.
  void RequireGroups() const {
    const bool sound = config_.n_group < config_.n_routed_experts &&
                       (config_.n_group <= 1 || forward_.topk_group < config_.n_group);
    if (sound) return;
    FailConfig(formats::kConfigName,
               fmt::format("{} experts in {} groups (n_group), of which {} are used (topk_group), "
                           "cannot be loaded by llama.cpp: it wants fewer groups than experts, and "
                           "not all groups used",
                           config_.n_routed_experts, config_.n_group, forward_.topk_group));
  }

  void WriteIndexer() {
    Number("attention.indexer.head_count", config_.index_n_heads);
    Number("attention.indexer.key_length", config_.index_head_dim);
    Number("attention.indexer.top_k", forward_.index_topk);
    if (target_.architecture != GgufArchitecture::kGlmDsa || config_.indexer_layers.empty()) return;
    const auto layers = static_cast<std::ptrdiff_t>(config_.num_hidden_layers);
    Add("attention.indexer.types",
        std::vector<bool>(config_.indexer_layers.begin(), config_.indexer_layers.begin() + layers));
  }

  void WriteRope() {
    Number("rope.dimension_count", config_.qk_rope_head_dim);
    Real("rope.freq_base", forward_.rope_theta);
    if (!forward_.yarn) return;
    const Json* rope = Find("rope_parameters");
    if (rope == nullptr) rope = Find("rope_scaling");
    Add("rope.scaling.type", std::string("yarn"));
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

  const GgufTarget& target_;
  const std::string_view architecture_;
  const ModelConfig& config_;
  const ForwardConfig forward_;
  const Json root_;
  const Json& text_;
  GgufKeys& keys_;
};

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

// "1.3M": with two digits at least.
std::string RoundedCount(double count) {
  struct Unit {
    double size;
    double factor;
    char name;
  };
  constexpr std::array<Unit, 3> kUnits = {{{1e12, 1e-12, 'T'}, {1e9, 1e-9, 'B'}, {1e6, 1e-6, 'M'}}};
  Unit unit = {0, 1e-3, 'K'};
  for (const Unit& larger : kUnits) {
    if (count <= larger.size) continue;
    unit = larger;
    break;
  }
  const double scaled = count * unit.factor;
  const double whole = std::nearbyint(scaled);
  const int decimals = whole >= 10 ? 0 : whole >= 1 ? 1 : 2;
  return fmt::format("{:.{}f}{}", scaled, decimals, unit.name);
}

}  // namespace

GgufKeys ModelGgufKeys(const OpenedModel& model, const GgufTarget& target, const std::string& name,
                       std::uint32_t file_type) {
  GgufKeys keys;
  keys.emplace_back("general.architecture",
                    std::string(NameOfGgufArchitecture(target.architecture)));
  keys.emplace_back("general.type", std::string("model"));
  keys.emplace_back("general.name", name);
  keys.emplace_back("general.file_type", file_type);
  keys.emplace_back("general.quantization_version", std::uint32_t{2});
  AddSampling(model, keys);
  if (target.architecture == GgufArchitecture::kDeepSeek4) {
    AddV4GgufKeys(model, keys);
  } else {
    KeyWriter(model, target, keys).Write();
  }
  return keys;
}

void AddSizeLabel(const std::vector<GgufPlanned>& tensors, GgufKeys& keys) {
  std::uint64_t weights = 0;  // those of one expert among them
  std::uint64_t experts = 0;  // over all tensors of experts
  std::uint64_t stacks = 0;
  for (const GgufPlanned& tensor : tensors) {
    std::uint64_t size = 1;
    for (const std::uint64_t dimension : tensor.shape) size *= dimension;
    if (tensor.name.find("_exps.") != std::string::npos) {
      experts += tensor.shape.front();
      size /= tensor.shape.front();
      ++stacks;
    }
    weights += size;
  }
  const std::string count = RoundedCount(static_cast<double>(weights));
  keys.emplace_back("general.size_label",
                    stacks == 0 ? count : fmt::format("{}x{}", experts / stacks, count));
}

}  // namespace dsv3::convert

#include "convert/open/gguf_config.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "convert/layouts/gguf_names.h"
#include "formats/gguf_files.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// More than the tensors that a layer has beside those of its routed experts.
constexpr std::uint64_t kMostBesideExperts = 64;

class Reader {
 public:
  explicit Reader(const GgufModel& model)
      : model_(model), architecture_(GgufArchitectureOf(model)) {}

  GgufConfig Read() {
    GgufConfig result;
    result.known = FindGgufNames(architecture_) != nullptr;
    if (!result.known) return result;
    const bool is_v4 = architecture_ == "deepseek4";
    // V4's MTP layers are in a file of their own, under names that are not predicted.
    if (is_v4 && Find("nextn_predict_layers").value_or(0) > 0) return result;
    config_.known = true;
    config_.model_type = is_v4 ? "deepseek_v4" : "deepseek_v3";
    ReadSizes();
    if (is_v4) {
      ReadV4();
    } else {
      ReadV3();
    }
    if (missing_.empty()) Judge();
    if (missing_.empty() && problem_.empty()) {
      if (architecture_ == "glm-dsa" && config_.indexer_layers.empty()) FindIndexers();
      result.config = std::move(config_);
    }
    result.missing = std::move(missing_);
    result.problem = std::move(problem_);
    return result;
  }

 private:
  std::string KeyOf(std::string_view key) const { return fmt::format("{}.{}", architecture_, key); }
  std::optional<std::uint64_t> Find(std::string_view key) const {
    return formats::GgufNumber(model_.keys, KeyOf(key));
  }
  std::uint64_t Need(std::string_view key) {
    const std::optional<std::uint64_t> value = Find(key);
    if (!value) missing_.push_back(KeyOf(key));
    return value.value_or(0);
  }
  bool Has(const std::string& tensor) const { return model_.stored.Find(tensor) != Catalog::kNone; }
  bool AnyHas(std::string_view part) const {
    return std::any_of(model_.stored.tensors().begin(), model_.stored.tensors().end(),
                       [&](const CatalogTensor& tensor) { return tensor.name.ends_with(part); });
  }

  void ReadSizes() {
    config_.num_hidden_layers = Need("block_count");
    config_.num_nextn_predict_layers = Find("nextn_predict_layers").value_or(0);
    if (config_.num_nextn_predict_layers > config_.num_hidden_layers) {
      problem_ =
          fmt::format("{} is more than {}", KeyOf("nextn_predict_layers"), KeyOf("block_count"));
    }
    config_.num_hidden_layers -= config_.num_nextn_predict_layers;
    config_.hidden_size = Need("embedding_length");
    config_.num_attention_heads = Need("attention.head_count");
    config_.vocab_size = Tokens();
    config_.n_routed_experts = Find("expert_count").value_or(0);
    if (config_.n_routed_experts > 0) {
      config_.moe_intermediate_size = Need("expert_feed_forward_length");
      config_.n_shared_experts = Need("expert_shared_count");
      config_.num_experts_per_tok = Need("expert_used_count");
    }
    config_.router_bias = AnyHas(".exp_probs_b.bias");
    config_.tie_word_embeddings = !Has("output.weight");
    config_.qk_rope_head_dim = Need("rope.dimension_count");
    config_.q_lora_rank = Find("attention.q_lora_rank").value_or(0);
  }

  std::uint64_t Tokens() {
    if (const auto size = Find("vocab_size")) return *size;
    const auto* const value = formats::FindGgufKey(model_.keys, "tokenizer.ggml.tokens");
    const auto* const tokens =
        value == nullptr ? nullptr : std::get_if<std::vector<std::string>>(value);
    if (tokens == nullptr) missing_.push_back(KeyOf("vocab_size"));
    return tokens == nullptr ? 0 : tokens->size();
  }

  void ReadV3() {
    config_.first_k_dense_replace = Find("leading_dense_block_count").value_or(0);
    if (config_.n_routed_experts == 0 || config_.first_k_dense_replace > 0) {
      config_.intermediate_size = Need("feed_forward_length");
    }
    config_.kv_lora_rank = Need("attention.kv_lora_rank");
    // Files of llama.cpp before it took MLA as one head have the sizes of heads under these names.
    const bool apart = Find("attention.key_length_mla").has_value();
    const std::uint64_t key = Need(apart ? "attention.key_length_mla" : "attention.key_length");
    config_.v_head_dim = Need(apart ? "attention.value_length_mla" : "attention.value_length");
    if (key < config_.qk_rope_head_dim) {
      problem_ = fmt::format("{} is more than the length of a key, {}",
                             KeyOf("rope.dimension_count"), key);
    }
    config_.qk_nope_head_dim = key - config_.qk_rope_head_dim;
    const std::string mtp = GgufLayerPrefix(config_.num_hidden_layers) + "nextn.";
    config_.mtp_embedding_copies =
        Has(mtp + "embed_tokens.weight") && Has(mtp + "shared_head_head.weight");
    if (architecture_ != "deepseek2") ReadIndexer();
  }

  void ReadIndexer() {
    config_.index_n_heads = Need("attention.indexer.head_count");
    config_.index_head_dim = Need("attention.indexer.key_length");
    const auto* const value = formats::FindGgufKey(model_.keys, KeyOf("attention.indexer.types"));
    const auto* const types = value == nullptr ? nullptr : std::get_if<std::vector<bool>>(value);
    if (types == nullptr) return;
    const std::uint64_t layers = config_.num_hidden_layers;
    if (types->size() != layers && types->size() != layers + config_.num_nextn_predict_layers) {
      problem_ = fmt::format("{} has {} entries for {} layers", KeyOf("attention.indexer.types"),
                             types->size(), layers);
      return;
    }
    config_.indexer_layers = *types;
  }

  void ReadV4() {
    V4Dimensions& v4 = config_.v4.emplace();
    v4.head_dim = Need("attention.key_length");
    v4.o_groups = Need("attention.output_group_count");
    v4.o_lora_rank = Need("attention.output_lora_rank");
    v4.hc_mult = Need("hyper_connection.count");
    v4.num_hash_layers = Find("hash_layer_count").value_or(0);
    config_.index_n_heads = Need("attention.indexer.head_count");
    config_.index_head_dim = Need("attention.indexer.key_length");
    if (v4.o_groups == 0) problem_ = KeyOf("attention.output_group_count") + " is 0";
    const std::string key = KeyOf("attention.compress_ratios");
    const auto* const value = formats::FindGgufKey(model_.keys, key);
    const auto* const ratios =
        value == nullptr ? nullptr : std::get_if<std::vector<std::int32_t>>(value);
    if (ratios == nullptr) return missing_.push_back(key);
    for (const std::int32_t ratio : *ratios) {
      v4.compress_ratios.push_back(static_cast<std::uint64_t>(std::max(ratio, 0)));
    }
  }

  // Layers of GLM-5 may use the indexer of a layer before them; where no key says which do, those
  // without one.
  void FindIndexers() {
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      const std::string prefix = GgufLayerPrefix(layer) + "indexer.";
      config_.indexer_layers.push_back(Has(prefix + "attn_q_b.weight") ||
                                       Has(prefix + "attn_k.weight"));
    }
  }

  // Whether the numbers are those of a model that can be.
  void Judge() {
    const std::uint64_t layers = config_.num_hidden_layers + config_.num_nextn_predict_layers;
    const bool many =
        layers > kMaxExpectedTensors || config_.n_routed_experts > kMaxExpectedTensors ||
        layers * (3 * config_.n_routed_experts + kMostBesideExperts) > kMaxExpectedTensors;
    if (many) {
      problem_ = fmt::format(
          "with {} layers of {} experts there would be more than {} tensors, "
          "and the largest models have a third of that",
          layers, config_.n_routed_experts, kMaxExpectedTensors);
    }
  }

  const GgufModel& model_;
  const std::string_view architecture_;
  ModelConfig config_;
  std::vector<std::string> missing_;
  std::string problem_;
};

}  // namespace

std::string_view GgufArchitectureOf(const GgufModel& model) {
  const formats::GgufValue* const value =
      formats::FindGgufKey(model.keys, formats::kGgufArchitectureKey);
  const auto* const name = value == nullptr ? nullptr : std::get_if<std::string>(value);
  return name == nullptr ? std::string_view() : std::string_view(*name);
}

GgufConfig ReadGgufConfig(const GgufModel& model) { return Reader(model).Read(); }

}  // namespace dsv3::convert

#include "convert/open/gguf_keys_v4.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/config_fields-inl.h"
#include "formats/checkpoint_files.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;

// llama.cpp's number of a router whose scores are sqrt(softplus(x)).
constexpr std::uint32_t kSqrtSoftplus = 4;

class V4KeyWriter {
 public:
  V4KeyWriter(const OpenedModel& model, formats::GgufKeys& keys)
      : config_(model.config),
        root_(ParseConfigObject(model.config_text, formats::kConfigName)),
        object_(config_.prefix.empty() ? root_ : root_.at("text_config")),
        fields_(object_, formats::kConfigName, config_.prefix, /*strict=*/true),
        keys_(keys) {}

  void Write() {
    if (config_.tie_word_embeddings) {
      fields_.Fail("tie_word_embeddings is true, and llama.cpp's deepseek4 needs a head");
    }
    Add("block_count", Number(config_.num_hidden_layers));
    Need("context_length", "max_position_embeddings");
    Add("embedding_length", Number(config_.hidden_size));
    Add("embedding_length_out", Number(config_.hidden_size * config_.v4->hc_mult));
    Add("rope.dimension_count", Number(config_.qk_rope_head_dim));
    Real("rope.freq_base", RealOf(object_, "rope_theta"));
    WriteScaling();
    WriteAttention();
    WriteExperts();
    WriteStreams();
  }

 private:
  template <typename Value>
  void Add(std::string_view key, Value value) {
    keys_.emplace_back(fmt::format("deepseek4.{}", key), std::move(value));
  }
  static std::uint32_t Number(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
  void Real(std::string_view key, double value) { Add(key, static_cast<float>(value)); }
  void Need(std::string_view key, const char* field) {
    Add(key, Number(fields_.Dimension(field, nullptr)));
  }

  double RealOf(const Json& object, const char* field) const {
    const auto found = object.find(field);
    if (found == object.end()) {
      fields_.Fail(
          fmt::format("lacks the field '{}', which a GGUF file needs; take the config.json "
                      "that belongs to the weights",
                      fields_.PathOf(field)));
    }
    if (!found->is_number() || !std::isfinite(found->get<double>())) {
      fields_.Wrong(field, "a number", *found);
    }
    return found->get<double>();
  }

  void WriteScaling() {
    const Json* scaling = fields_.Find("rope_parameters");
    if (scaling == nullptr || !scaling->is_object()) scaling = fields_.Find("rope_scaling");
    if (scaling == nullptr || !scaling->is_object()) return;
    const char* const key = scaling->contains("rope_type") ? "rope_type" : "type";
    const auto type = scaling->find(key);
    if (type == scaling->end() || *type == "default") return;
    if (*type != "yarn") {
      fields_.Fail(fmt::format("positions are scaled by {}, and a GGUF file of V4 has yarn alone",
                               ShownInMessage(*type)));
    }
    Add("rope.scaling.type", std::string("yarn"));
    Real("rope.scaling.factor", RealOf(*scaling, "factor"));
    Add("rope.scaling.original_context_length",
        Number(static_cast<std::uint64_t>(RealOf(*scaling, "original_max_position_embeddings"))));
    const auto may_have = [&](std::string_view name, const char* field) {
      if (scaling->contains(field)) Real(name, RealOf(*scaling, field));
    };
    may_have("rope.scaling.yarn_attn_factor", "attention_factor");
    may_have("rope.scaling.yarn_beta_fast", "beta_fast");
    may_have("rope.scaling.yarn_beta_slow", "beta_slow");
  }

  void WriteAttention() {
    Add("attention.head_count", Number(config_.num_attention_heads));
    Add("attention.head_count_kv", std::uint32_t{1});  // one that all heads share
    Add("attention.key_length", Number(config_.v4->head_dim));
    Add("attention.value_length", Number(config_.v4->head_dim));
    Add("attention.q_lora_rank", Number(config_.q_lora_rank));
    Real("attention.layer_norm_rms_epsilon", RealOf(object_, "rms_norm_eps"));
    Need("attention.sliding_window", "sliding_window");
    Add("attention.output_group_count", Number(config_.v4->o_groups));
    Add("attention.output_lora_rank", Number(config_.v4->o_lora_rank));
    Need("attention.indexer.head_count", "index_n_heads");
    Need("attention.indexer.key_length", "index_head_dim");
    Need("attention.indexer.top_k", "index_topk");
    std::vector<std::int32_t> ratios;
    for (const std::uint64_t ratio : config_.v4->compress_ratios) {
      if (ratio > 1 && ratio != 4 && ratio != 128) {
        fields_.Fail(
            fmt::format("compress_ratios has {} for layer {}, and llama.cpp takes 0, 4 and 128",
                        ratio, ratios.size()));
      }
      ratios.push_back(ratio == 1 ? 0 : static_cast<std::int32_t>(ratio));  // some write 1 for none
    }
    Add("attention.compress_ratios", std::move(ratios));
    Real("attention.compress_rope_freq_base", RealOf(object_, "compress_rope_theta"));
  }

  void WriteExperts() {
    if (const std::string score = fields_.String("scoring_func"); score != "sqrtsoftplus") {
      fields_.Fail(fmt::format("scoring_func is {}, and llama.cpp's deepseek4 takes sqrtsoftplus",
                               QuoteForMessage(score)));
    }
    Add("expert_gating_func", kSqrtSoftplus);
    Add("expert_count", Number(config_.n_routed_experts));
    Add("expert_used_count", Number(config_.num_experts_per_tok));
    Add("expert_shared_count", Number(config_.n_shared_experts));
    Add("expert_feed_forward_length", Number(config_.moe_intermediate_size));
    Real("expert_weights_scale", RealOf(object_, "routed_scaling_factor"));
    Add("expert_weights_norm", fields_.Bool("norm_topk_prob", true));
    Add("hash_layer_count", Number(config_.v4->num_hash_layers));
    const auto limit = static_cast<float>(RealOf(object_, "swiglu_limit"));
    const std::vector<float> limits(static_cast<std::size_t>(config_.num_hidden_layers), limit);
    Add("swiglu_clamp_exp", limits);
    Add("swiglu_clamp_shexp", limits);
  }

  void WriteStreams() {
    Add("hyper_connection.count", Number(config_.v4->hc_mult));
    Need("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters");
    Real("hyper_connection.epsilon", RealOf(object_, "hc_eps"));
  }

  const ModelConfig& config_;
  const Json root_;
  const Json& object_;
  const ConfigFields fields_;
  formats::GgufKeys& keys_;
};

}  // namespace

void AddV4GgufKeys(const OpenedModel& model, formats::GgufKeys& keys) {
  V4KeyWriter(model, keys).Write();
}

}  // namespace dsv3::convert

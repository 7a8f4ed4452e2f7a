#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tests/convert/layouts/stack_model.h"

// The tensors of SmallConfig's model as Megatron-Core saves them.
namespace dsv3::convert::testing {

// SmallConfig: hidden 8, dense 12, experts 4 × 6, heads 2 × (3 + 2, 3), q 5, kv 4.
inline constexpr std::uint64_t kExperts = 4;

struct MegatronForm {
  bool local = false;       // norms apart from the linear layers
  bool singleton = false;   // gate and up apart, and each expert
  bool fused_down = false;  // q_a and kv_a in one
  bool live = false;        // experts as modules call them
  std::string mtp_block = "transformer_layer";
};

inline void AddMlp(StackModel& model, const std::string& to, const std::string& from,
                   std::uint64_t width, bool apart) {
  if (apart) {
    model.Add(to + "linear_fc1.weight_w", {width, 8}, from + "gate_proj.weight");
    model.Add(to + "linear_fc1.weight_v", {width, 8}, from + "up_proj.weight");
  } else {
    model.AddRows(to + "linear_fc1.weight", {2 * width, 8},
                  {from + "gate_proj.weight", from + "up_proj.weight"});
  }
  model.Add(to + "linear_fc2.weight", {8, width}, from + "down_proj.weight");
}

inline void AddAttention(StackModel& model, const std::string& to, const std::string& from,
                         const MegatronForm& form) {
  if (form.fused_down) {
    model.Add(to + "linear_qkv_down_proj.layer_norm_weight", {8}, from + "input_layernorm.weight");
    model.AddRows(
        to + "linear_qkv_down_proj.weight", {11, 8},
        {from + "self_attn.q_a_proj.weight", from + "self_attn.kv_a_proj_with_mqa.weight"}, {5, 6});
  } else {
    model.Add(
        to.substr(0, to.size() - std::string("self_attention.").size()) + "input_layernorm.weight",
        {8}, from + "input_layernorm.weight");
    model.Add(to + "linear_q_down_proj.weight", {5, 8}, from + "self_attn.q_a_proj.weight");
    model.Add(to + "linear_kv_down_proj.weight", {6, 8},
              from + "self_attn.kv_a_proj_with_mqa.weight");
  }
  model.Add(to + (form.local ? "q_layernorm.weight" : "linear_q_up_proj.layer_norm_weight"), {5},
            from + "self_attn.q_a_layernorm.weight");
  model.Add(to + (form.local ? "kv_layernorm.weight" : "linear_kv_up_proj.layer_norm_weight"), {4},
            from + "self_attn.kv_a_layernorm.weight");
  model.Add(to + "linear_q_up_proj.weight", {10, 5}, from + "self_attn.q_b_proj.weight");
  model.Add(to + "linear_kv_up_proj.weight", {12, 4}, from + "self_attn.kv_b_proj.weight");
  model.Add(to + "linear_proj.weight", {8, 6}, from + "self_attn.o_proj.weight");
}

inline void AddExperts(StackModel& model, const std::string& to, const std::string& from,
                       const MegatronForm& form) {
  std::vector<std::string> fc1;
  std::vector<std::string> fc2;
  for (std::uint64_t e = 0; e < kExperts; ++e) {
    const std::string expert = fmt::format("{}{}.", from, e);
    const std::string gate = expert + "gate_proj.weight";
    const std::string up = expert + "up_proj.weight";
    const std::string down = expert + "down_proj.weight";
    if (form.live) {
      model.AddRows(fmt::format("{}linear_fc1.weight{}", to, e), {12, 8}, {gate, up});
      model.Add(fmt::format("{}linear_fc2.weight{}", to, e), {8, 6}, down);
    } else if (form.singleton) {
      AddMlp(model, fmt::format("{}experts.{}.", to, e), expert, 6, true);
    }
    fc1.insert(fc1.end(), {gate, up});
    fc2.push_back(down);
  }
  if (form.live || form.singleton) return;
  model.AddRows(to + "experts.linear_fc1.weight", {kExperts, 12, 8}, fc1);
  model.AddRows(to + "experts.linear_fc2.weight", {kExperts, 8, 6}, fc2);
}

inline void AddBlock(StackModel& model, const std::string& to, std::uint64_t layer, bool moe,
                     const MegatronForm& form) {
  const std::string from = fmt::format("model.layers.{}.", layer);
  AddAttention(model, to + "self_attention.", from, form);
  model.Add(
      to + (moe || form.local ? "pre_mlp_layernorm.weight" : "mlp.linear_fc1.layer_norm_weight"),
      {8}, from + "post_attention_layernorm.weight");
  if (!moe) return AddMlp(model, to + "mlp.", from + "mlp.", 12, form.singleton);
  model.Add(to + "mlp.router.weight", {kExperts, 8}, from + "mlp.gate.weight");
  model.Add(to + "mlp.router.expert_bias", {kExperts}, from + "mlp.gate.e_score_correction_bias");
  AddMlp(model, to + "mlp.shared_experts.", from + "mlp.shared_experts.", 6, form.singleton);
  AddExperts(model, to + "mlp.experts.", from + "mlp.experts.", form);
}

inline void AddMtp(StackModel& model, const MegatronForm& form) {
  AddBlock(model, fmt::format("mtp.layers.0.{}.", form.mtp_block), 2, true, form);
  model.Add("mtp.layers.0.enorm.weight", {8}, "model.layers.2.enorm.weight");
  model.Add("mtp.layers.0.hnorm.weight", {8}, "model.layers.2.hnorm.weight");
  model.Add("mtp.layers.0.eh_proj.weight", {8, 16}, "model.layers.2.eh_proj.weight");
  model.Add("mtp.layers.0.final_layernorm.weight", {8}, "model.layers.2.shared_head.norm.weight");
  model.copies = {{"model.layers.2.embed_tokens.weight", "model.embed_tokens.weight"},
                  {"model.layers.2.shared_head.head.weight", "lm_head.weight"}};
}

inline void AddEnds(StackModel& model) {
  model.Add("embedding.word_embeddings.weight", {32, 8}, "model.embed_tokens.weight");
  model.Add("output_layer.weight", {32, 8}, "lm_head.weight");
  model.Add("decoder.final_layernorm.weight", {8}, "model.norm.weight");
}

inline StackModel Megatron(const MegatronForm& form = {}) {
  StackModel model;
  AddMtp(model, form);
  AddBlock(model, "decoder.layers.1.", 1, true, form);
  AddBlock(model, "decoder.layers.0.", 0, false, form);
  AddEnds(model);
  return model;
}

}  // namespace dsv3::convert::testing

#include "convert/layouts/mindformers_mcore_names.h"

#include <vector>

namespace dsv3::convert {
namespace {

using enum RuleRows;

// q_a_proj and kv_a_proj_with_mqa in one tensor.
std::vector<NameRule> ConcatenatedAttention(std::string_view variant) {
  return {
      {"self_attn.q_a_proj.weight", "self_attention.linear_qkv.weight", kUpper, variant},
      {"self_attn.kv_a_proj_with_mqa.weight", "self_attention.linear_qkv.weight", kLower, variant},
      {"self_attn.q_b_proj.weight", "self_attention.linear_qb.weight", kAll, variant},
      {"self_attn.kv_b_proj.weight", "self_attention.linear_kvb.weight", kAll, variant},
      {"self_attn.kv_a_layernorm.weight", "self_attention.k_layernorm.weight", kAll, variant},
  };
}

std::vector<NameRule> SeparateAttention() {
  return {
      {"self_attn.q_a_proj.weight", "self_attention.linear_q_down_proj.weight"},
      {"self_attn.kv_a_proj_with_mqa.weight", "self_attention.linear_kv_down_proj.weight"},
      {"self_attn.q_b_proj.weight", "self_attention.linear_q_up_proj.weight"},
      {"self_attn.kv_b_proj.weight", "self_attention.linear_kv_up_proj.weight"},
      {"self_attn.kv_a_layernorm.weight", "self_attention.kv_layernorm.weight"},
  };
}

// A tensor for each expert.
std::vector<NameRule> LocalExperts() {
  return {
      {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.local_experts.{E}.linear_fc1.weight",
       kUpper, "local-experts"},
      {"mlp.experts.{E}.up_proj.weight", "mlp.experts.local_experts.{E}.linear_fc1.weight", kLower,
       "local-experts"},
      {"mlp.experts.{E}.down_proj.weight", "mlp.experts.local_experts.{E}.linear_fc2.weight", kAll,
       "local-experts"},
  };
}

// `gate`, `up`: how gate and up of dense and shared MLPs lie in one tensor. `weight1`: the axes of
// the tensor of all experts' gates and ups.
std::vector<NameRule> LayerRules(const std::vector<std::vector<NameRule>>& own, RuleRows gate,
                                 RuleRows up, RuleAxes weight1) {
  std::vector<NameRule> rules;
  for (const std::vector<NameRule>& some : own) rules.insert(rules.end(), some.begin(), some.end());
  const std::vector<NameRule> common = {
      {"input_layernorm.weight", "input_layernorm.weight"},
      {"post_attention_layernorm.weight", "pre_mlp_layernorm.weight"},
      {"self_attn.q_a_layernorm.weight", "self_attention.q_layernorm.weight"},
      {"self_attn.o_proj.weight", "self_attention.linear_proj.weight"},
      {"mlp.gate_proj.weight", "mlp.linear_fc1.weight", gate},
      {"mlp.up_proj.weight", "mlp.linear_fc1.weight", up},
      {"mlp.down_proj.weight", "mlp.linear_fc2.weight"},
      {"mlp.gate.weight", "mlp.router.weight"},
      {"mlp.gate.e_score_correction_bias", "mlp.router.expert_bias"},
      {"mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.linear_fc1.weight", gate},
      {"mlp.shared_experts.up_proj.weight", "mlp.shared_experts.linear_fc1.weight", up},
      {"mlp.shared_experts.down_proj.weight", "mlp.shared_experts.linear_fc2.weight"},
      {.model = "mlp.experts.{E}.gate_proj.weight",
       .stack = "mlp.experts.weight1",
       .rows = kUpper,
       .transposed = true,
       .axes = weight1},
      {.model = "mlp.experts.{E}.up_proj.weight",
       .stack = "mlp.experts.weight1",
       .rows = kLower,
       .transposed = true,
       .axes = weight1},
      {.model = "mlp.experts.{E}.down_proj.weight",
       .stack = "mlp.experts.weight2",
       .transposed = true,
       .axes = RuleAxes::kInRows},
  };
  rules.insert(rules.end(), common.begin(), common.end());
  return rules;
}

LayoutTable MakeTable(std::string_view title, std::vector<NameRule> layer,
                      std::vector<std::string_view> f32_names) {
  return {
      .title = title,
      .model_prefixes = {"embedding.", "decoder.", "mtp.", "output_layer."},
      // Training counts what each expert did; a head in the MTP layers is written by mistake.
      .ignored = {".mlp.router.fi_accu", "mtp.output_layer."},
      .outside =
          {
              {"model.embed_tokens.weight", "embedding.word_embeddings.weight"},
              {"model.norm.weight", "decoder.final_norm.weight", kAll, "final-norm"},
              {"model.norm.weight", "decoder.final_layernorm.weight"},
              {"lm_head.weight", "output_layer.weight"},
          },
      .layer = std::move(layer),
      .mtp =
          {
              {"enorm.weight", "enorm.weight"},
              {"hnorm.weight", "hnorm.weight"},
              {"eh_proj.weight", "eh_proj.weight"},
              {"shared_head.norm.weight", "final_layernorm.weight"},
          },
      .main_prefixes = {{"decoder.layers.{L}."}},
      .mtp_prefixes = {{"mtp.layers.{K}.transformer_layer."}},
      .mtp_prefix = "mtp.layers.{K}.",
      .copies = {{"embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"},
                 {"shared_head.head.weight", "lm_head.weight", "model.embed_tokens.weight"}},
      .rename = nullptr,
      .f32_names = std::move(f32_names),
  };
}

}  // namespace

const LayoutTable& MindformersMcoreV1Names() {
  static const LayoutTable table = MakeTable(
      "MindFormers' mcore network (v1)",
      LayerRules({ConcatenatedAttention(""), LocalExperts()}, kUpper, kLower, RuleAxes::kFolded),
      {"norm"});
  return table;
}

const LayoutTable& MindformersMcoreV2Names() {
  static const LayoutTable table =
      MakeTable("MindFormers' mcore network (v2)",
                LayerRules({ConcatenatedAttention("qkv-concat"), SeparateAttention()}, kEven, kOdd,
                           RuleAxes::kInRows),
                {"expert_bias"});
  return table;
}

const LayoutTable& MindformersMcoreV2ContiguousNames() {
  static const LayoutTable table =
      MakeTable("MindFormers' mcore network (v2, gate before up)",
                LayerRules({ConcatenatedAttention("qkv-concat"), SeparateAttention()}, kUpper,
                           kLower, RuleAxes::kInRows),
                {"expert_bias"});
  return table;
}

}  // namespace dsv3::convert

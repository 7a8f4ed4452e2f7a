#include "convert/layouts/torchtitan_names.h"

namespace dsv3::convert {

const LayoutTable& TorchtitanNames() {
  using enum RuleRows;
  static const LayoutTable table = {
      .title = "torchtitan",
      .model_prefixes = {"tok_embeddings.", "layers.", "mtp_layers.", "norm.", "lm_head.",
                         "output."},
      .ignored = {},
      .outside =
          {
              {"model.embed_tokens.weight", "tok_embeddings.weight"},
              {"model.norm.weight", "norm.weight"},
              {"lm_head.weight", "output.weight", kAll, "output"},
              {"lm_head.weight", "lm_head.weight"},
          },
      .layer =
          {
              {"input_layernorm.weight", "attention_norm.weight"},
              {"self_attn.q_proj.weight", "attention.wq.weight"},
              {"self_attn.q_a_proj.weight", "attention.wq_a.weight"},
              {"self_attn.q_a_layernorm.weight", "attention.q_norm.weight"},
              {"self_attn.q_b_proj.weight", "attention.wq_b.weight"},
              {"self_attn.kv_a_proj_with_mqa.weight", "attention.wkv_a.weight"},
              {"self_attn.kv_a_layernorm.weight", "attention.kv_norm.weight"},
              {"self_attn.kv_b_proj.weight", "attention.wkv_b.weight"},
              {"self_attn.o_proj.weight", "attention.wo.weight"},
              {"post_attention_layernorm.weight", "ffn_norm.weight"},

              {"mlp.gate_proj.weight", "feed_forward.w1.weight"},
              {"mlp.down_proj.weight", "feed_forward.w2.weight"},
              {"mlp.up_proj.weight", "feed_forward.w3.weight"},

              {"mlp.gate.weight", "moe.router.gate.weight"},
              {"mlp.gate.e_score_correction_bias", "moe.expert_bias", kAll, "experts"},
              {"mlp.gate.e_score_correction_bias", "moe.expert_bias_E"},
              {"mlp.shared_experts.gate_proj.weight", "moe.shared_experts.w1.weight"},
              {"mlp.shared_experts.down_proj.weight", "moe.shared_experts.w2.weight"},
              {"mlp.shared_experts.up_proj.weight", "moe.shared_experts.w3.weight"},

              {"mlp.experts.{E}.gate_proj.weight", "moe.experts.w1", kAll, "experts"},
              {"mlp.experts.{E}.gate_proj.weight", "moe.experts.w1_EFD", kAll, "experts-efd"},
              {"mlp.experts.{E}.gate_proj.weight", "moe.routed_experts.inner_experts.w1_EFD"},
              {"mlp.experts.{E}.down_proj.weight", "moe.experts.w2", kAll, "experts"},
              {"mlp.experts.{E}.down_proj.weight", "moe.experts.w2_EDF", kAll, "experts-efd"},
              {"mlp.experts.{E}.down_proj.weight", "moe.routed_experts.inner_experts.w2_EDF"},
              {"mlp.experts.{E}.up_proj.weight", "moe.experts.w3", kAll, "experts"},
              {"mlp.experts.{E}.up_proj.weight", "moe.experts.w3_EFD", kAll, "experts-efd"},
              {"mlp.experts.{E}.up_proj.weight", "moe.routed_experts.inner_experts.w3_EFD"},
          },
      .mtp =
          {
              {"enorm.weight", "enorm.weight"},
              {"hnorm.weight", "hnorm.weight"},
              {"eh_proj.weight", "eh_proj.weight"},
              {"shared_head.norm.weight", "mtp_norm.weight"},
          },
      .main_prefixes = {{"layers.{L}."}},
      .mtp_prefixes = {{"mtp_layers.{K}."}},
      .mtp_prefix = "mtp_layers.{K}.",
      .copies = {{"embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"},
                 {"shared_head.head.weight", "lm_head.weight", "model.embed_tokens.weight"}},
      .rename = nullptr,
  };
  return table;
}

}  // namespace dsv3::convert

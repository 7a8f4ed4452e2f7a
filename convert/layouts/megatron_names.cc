#include "convert/layouts/megatron_names.h"

namespace dsv3::convert {

const LayoutTable& MegatronNames() {
  using enum RuleRows;
  static const LayoutTable table = {
      .title = "Megatron-Core",
      .model_prefixes = {"embedding.", "decoder.", "mtp.", "output_layer."},
      .ignored = {"_extra_state"},
      .outside =
          {
              {"model.embed_tokens.weight", "embedding.word_embeddings.weight", kPadded},
              {"model.norm.weight", "decoder.final_layernorm.weight"},
              {"lm_head.weight", "output_layer.weight", kPadded},
          },
      .layer =
          {
              {"input_layernorm.weight", "self_attention.linear_qkv_down_proj.layer_norm_weight",
               kAll, "fused-down"},
              {"input_layernorm.weight", "input_layernorm.weight"},

              {"self_attn.q_proj.weight", "self_attention.linear_q_proj.weight"},
              {"self_attn.q_a_proj.weight", "self_attention.linear_qkv_down_proj.weight", kUpper,
               "fused-down"},
              {"self_attn.q_a_proj.weight", "self_attention.linear_q_down_proj.weight"},
              {"self_attn.kv_a_proj_with_mqa.weight", "self_attention.linear_qkv_down_proj.weight",
               kLower, "fused-down"},
              {"self_attn.kv_a_proj_with_mqa.weight", "self_attention.linear_kv_down_proj.weight"},
              {"self_attn.q_a_layernorm.weight", "self_attention.q_layernorm.weight", kAll,
               "local"},
              {"self_attn.q_a_layernorm.weight",
               "self_attention.linear_q_up_proj.layer_norm_weight"},
              {"self_attn.kv_a_layernorm.weight", "self_attention.kv_layernorm.weight", kAll,
               "local"},
              {"self_attn.kv_a_layernorm.weight",
               "self_attention.linear_kv_up_proj.layer_norm_weight"},
              {"self_attn.q_b_proj.weight", "self_attention.linear_q_up_proj.weight"},
              {"self_attn.kv_b_proj.weight", "self_attention.linear_kv_up_proj.weight"},
              {"self_attn.o_proj.weight", "self_attention.linear_proj.weight"},

              {"post_attention_layernorm.weight", "pre_mlp_layernorm.weight", kAll, "local"},
              {"post_attention_layernorm.weight", "mlp.linear_fc1.layer_norm_weight", kAll, "",
               RuleLayers::kDense},
              {"post_attention_layernorm.weight", "pre_mlp_layernorm.weight", kAll, "",
               RuleLayers::kMoe},

              {"mlp.gate_proj.weight", "mlp.linear_fc1.weight_w", kAll, "singleton"},
              {"mlp.gate_proj.weight", "mlp.linear_fc1.weight_w", kAll, "fsdp"},
              {"mlp.gate_proj.weight", "mlp.linear_fc1.weight", kUpper},
              {"mlp.up_proj.weight", "mlp.linear_fc1.weight_v", kAll, "singleton"},
              {"mlp.up_proj.weight", "mlp.linear_fc1.weight_v", kAll, "fsdp"},
              {"mlp.up_proj.weight", "mlp.linear_fc1.weight", kLower},
              {"mlp.down_proj.weight", "mlp.linear_fc2.weight"},

              {"mlp.gate.weight", "mlp.router.weight"},
              {"mlp.gate.e_score_correction_bias", "mlp.router.expert_bias"},

              {"mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.linear_fc1.weight_w",
               kAll, "singleton"},
              {"mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.linear_fc1.weight_w",
               kAll, "fsdp"},
              {"mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.linear_fc1.weight",
               kUpper},
              {"mlp.shared_experts.up_proj.weight", "mlp.shared_experts.linear_fc1.weight_v", kAll,
               "singleton"},
              {"mlp.shared_experts.up_proj.weight", "mlp.shared_experts.linear_fc1.weight_v", kAll,
               "fsdp"},
              {"mlp.shared_experts.up_proj.weight", "mlp.shared_experts.linear_fc1.weight", kLower},
              {"mlp.shared_experts.down_proj.weight", "mlp.shared_experts.linear_fc2.weight"},

              {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.experts.{E}.linear_fc1.weight_w",
               kAll, "singleton"},
              {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.linear_fc1.weight{E}_w", kAll,
               "fsdp"},
              {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.linear_fc1.weight{E}", kUpper,
               "live"},
              {"mlp.experts.{E}.gate_proj.weight",
               "mlp.experts.local_experts.{E}.linear_fc1.weight", kUpper, "sequential"},
              {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.experts.linear_fc1.weight", kUpper},
              {"mlp.experts.{E}.up_proj.weight", "mlp.experts.experts.{E}.linear_fc1.weight_v",
               kAll, "singleton"},
              {"mlp.experts.{E}.up_proj.weight", "mlp.experts.linear_fc1.weight{E}_v", kAll,
               "fsdp"},
              {"mlp.experts.{E}.up_proj.weight", "mlp.experts.linear_fc1.weight{E}", kLower,
               "live"},
              {"mlp.experts.{E}.up_proj.weight", "mlp.experts.local_experts.{E}.linear_fc1.weight",
               kLower, "sequential"},
              {"mlp.experts.{E}.up_proj.weight", "mlp.experts.experts.linear_fc1.weight", kLower},
              {"mlp.experts.{E}.down_proj.weight", "mlp.experts.experts.{E}.linear_fc2.weight",
               kAll, "singleton"},
              {"mlp.experts.{E}.down_proj.weight", "mlp.experts.linear_fc2.weight{E}", kAll,
               "fsdp"},
              {"mlp.experts.{E}.down_proj.weight", "mlp.experts.linear_fc2.weight{E}", kAll,
               "live"},
              {"mlp.experts.{E}.down_proj.weight",
               "mlp.experts.local_experts.{E}.linear_fc2.weight", kAll, "sequential"},
              {"mlp.experts.{E}.down_proj.weight", "mlp.experts.experts.linear_fc2.weight"},
          },
      .mtp =
          {
              {"enorm.weight", "enorm.weight"},
              {"hnorm.weight", "hnorm.weight"},
              {"eh_proj.weight", "eh_proj.weight"},
              {"shared_head.norm.weight", "final_layernorm.weight"},
          },
      .main_prefixes = {{"decoder.layers.", "homogeneous"}, {"decoder.layers.{L}."}},
      .mtp_prefixes = {{"mtp.layers.{K}.mtp_model_layer.", "live-mtp"},
                       {"mtp.layers.{K}.transformer_layer."}},
      .mtp_prefix = "mtp.layers.{K}.",
      .copies = {{"embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"},
                 {"shared_head.head.weight", "lm_head.weight", "model.embed_tokens.weight"}},
      .rename = nullptr,
  };
  return table;
}

}  // namespace dsv3::convert

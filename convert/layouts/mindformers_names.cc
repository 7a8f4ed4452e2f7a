#include "convert/layouts/mindformers_names.h"

#include <vector>

#include "convert/layouts/mindformers_w8a8_names.h"

namespace dsv3::convert {
namespace {

using enum RuleRows;

// The training network's embedding, norm and head, which the inference network has, too.
std::vector<NameRule> OutsideRules() {
  return {
      {"model.embed_tokens.weight", "model.tok_embeddings.embedding_weight"},
      {"model.norm.weight", "model.norm_out.weight"},
      {"lm_head.weight", "lm_head.weight"},
  };
}

// What a layer is called in both networks, and behind it `own`.
std::vector<NameRule> LayerRules(const std::vector<NameRule>& own) {
  std::vector<NameRule> rules = {
      {"input_layernorm.weight", "attention_norm.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"self_attn.q_a_proj.weight", "attention.q2l_proj.weight"},
      {"self_attn.q_a_layernorm.weight", "attention.lq_norm.weight"},
      {"self_attn.kv_a_layernorm.weight", "attention.lkv_norm.weight"},
      {.model = "self_attn.kv_b_proj.weight",
       .stack = "attention.lkv2kv_k_nope.weight",
       .piece = RowPiece::kKeys},
      {.model = "self_attn.kv_b_proj.weight",
       .stack = "attention.lkv2kv_v.weight",
       .piece = RowPiece::kValues},
      {"self_attn.o_proj.weight", "attention.wo.weight"},
      {"mlp.gate_proj.weight", "feed_forward.w1.weight"},
      {"mlp.down_proj.weight", "feed_forward.w2.weight"},
      {"mlp.up_proj.weight", "feed_forward.w3.weight"},
      {"mlp.shared_experts.gate_proj.weight", "feed_forward.shared_experts.w1.weight"},
      {"mlp.shared_experts.down_proj.weight", "feed_forward.shared_experts.w2.weight"},
      {"mlp.shared_experts.up_proj.weight", "feed_forward.shared_experts.w3.weight"},
  };
  rules.insert(rules.end(), own.begin(), own.end());
  return rules;
}

// `variant`: of the network that these are the names of.
std::vector<NameRule> TrainingMtpRules(std::string_view variant) {
  return {
      {"enorm.weight", "mtp_hidden_fusers.{K}.norm_emb.weight", kAll, variant},
      {"hnorm.weight", "mtp_hidden_fusers.{K}.norm.weight", kAll, variant},
      {"eh_proj.weight", "mtp_hidden_fusers.{K}.dense.weight", kAll, variant},
      {"shared_head.norm.weight", "mtp_norms.{K}.weight", kAll, variant},
  };
}

std::vector<CopyRule> Copies() {
  return {{"embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"},
          {"shared_head.head.weight", "lm_head.weight", "model.embed_tokens.weight"}};
}

LayoutTable MakeTrainNames() {
  return {
      .title = "MindFormers' training network",
      .model_prefixes = {"model.", "lm_head."},
      .ignored = {},
      .outside = OutsideRules(),
      .layer = LayerRules({
          {.model = "self_attn.q_b_proj.weight",
           .stack = "attention.l2q_nope_proj.weight",
           .piece = RowPiece::kQueryNope},
          {.model = "self_attn.q_b_proj.weight",
           .stack = "attention.l2q_pe_proj.weight",
           .piece = RowPiece::kQueryRopeSorted},
          {.model = "self_attn.kv_a_proj_with_mqa.weight",
           .stack = "attention.kv2l_latent_kv.weight",
           .piece = RowPiece::kLatent},
          {.model = "self_attn.kv_a_proj_with_mqa.weight",
           .stack = "attention.kv2l_k_pe.weight",
           .piece = RowPiece::kKeyRopeSorted},

          {"mlp.gate.weight", "feed_forward.routed_experts.router.dense.weight", kAll, "bmm"},
          {"mlp.gate.weight", "feed_forward.routed_experts.router_dense.weight"},
          {"mlp.gate.e_score_correction_bias",
           "feed_forward.routed_experts.router.router.topk_bias", kAll, "bmm"},
          {"mlp.gate.e_score_correction_bias", "feed_forward.routed_experts.topk_bias"},

          {"mlp.experts.{E}.gate_proj.weight", "feed_forward.routed_experts.ffn.w1.weight", kAll,
           "bmm"},
          {.model = "mlp.experts.{E}.gate_proj.weight",
           .stack = "feed_forward.routed_experts.ffn.w1",
           .rows = kUpper,
           .transposed = true},
          {"mlp.experts.{E}.up_proj.weight", "feed_forward.routed_experts.ffn.w3.weight", kAll,
           "bmm"},
          {.model = "mlp.experts.{E}.up_proj.weight",
           .stack = "feed_forward.routed_experts.ffn.w1",
           .rows = kLower,
           .transposed = true},
          {"mlp.experts.{E}.down_proj.weight", "feed_forward.routed_experts.ffn.w2.weight", kAll,
           "bmm"},
          {.model = "mlp.experts.{E}.down_proj.weight",
           .stack = "feed_forward.routed_experts.ffn.w2",
           .transposed = true},
      }),
      .mtp = TrainingMtpRules(""),
      .main_prefixes = {{"model.layers.{L}."}},
      .mtp_prefixes = {{"model.layers.{L}."}},
      .mtp_prefix = "model.",
      .copies = Copies(),
      .rename = nullptr,
      .f32_names = {"norm", "router.dense", "topk_bias"},
  };
}

LayoutTable MakeInferNames() {
  std::vector<NameRule> mtp = TrainingMtpRules("train2infer");
  const std::vector<NameRule> own = {
      {"embed_tokens.weight", "layers.{L}.tok_embeddings.weight"},
      {"enorm.weight", "layers.{L}.enorm.weight"},
      {"hnorm.weight", "layers.{L}.hnorm.weight"},
      {"eh_proj.weight", "layers.{L}.eh_proj.weight"},
      {"shared_head.norm.weight", "layers.{L}.shared_head.norm.weight"},
      {"shared_head.head.weight", "layers.{L}.shared_head.head.weight"},
  };
  mtp.insert(mtp.end(), own.begin(), own.end());
  return {
      .title = "MindFormers' inference network",
      .model_prefixes = {"model.", "lm_head."},
      .ignored = {},
      .outside = OutsideRules(),
      .layer = WithW8A8Rules(LayerRules({
          {.model = "self_attn.q_b_proj.weight",
           .stack = "attention.l2q_proj.weight",
           .piece = RowPiece::kQuerySorted},
          {.model = "self_attn.kv_a_proj_with_mqa.weight",
           .stack = "attention.kv2l.weight",
           .piece = RowPiece::kLatentSorted},

          {"mlp.gate.weight", "feed_forward.routed_experts.router.dense.weight"},
          {"mlp.gate.e_score_correction_bias",
           "feed_forward.routed_experts.router.router.topk_bias", kAll, "train2infer"},
          {"mlp.gate.e_score_correction_bias",
           "feed_forward.routed_experts.router.e_score_correction_bias"},

          {.model = "mlp.experts.{E}.gate_proj.weight",
           .stack = "feed_forward.routed_experts.ffn.w1.weight",
           .transposed = true},
          {.model = "mlp.experts.{E}.down_proj.weight",
           .stack = "feed_forward.routed_experts.ffn.w2.weight",
           .transposed = true},
          {.model = "mlp.experts.{E}.up_proj.weight",
           .stack = "feed_forward.routed_experts.ffn.w3.weight",
           .transposed = true},
      })),
      .mtp = mtp,
      .main_prefixes = {{"model.layers.{L}."}},
      .mtp_prefixes = {{"model.layers.{L}."}},
      .mtp_prefix = "model.",
      .copies = Copies(),
      .rename = nullptr,
      .f32_names = {"e_score_correction_bias"},
  };
}

}  // namespace

const LayoutTable& MindformersTrainNames() {
  static const LayoutTable table = MakeTrainNames();
  return table;
}

const LayoutTable& MindformersInferNames() {
  static const LayoutTable table = MakeInferNames();
  return table;
}

}  // namespace dsv3::convert

#include "convert/layouts/gguf_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

namespace dsv3::convert {
namespace {

using enum GgufUse;

constexpr std::array<GgufNamePair, 3> kOutside = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {kHeadName, "output.weight"},
}};

constexpr std::array<GgufNamePair, 28> kLayer = {{
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_a_proj.weight", "attn_q_a.weight"},
    {"self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"},
    {"self_attn.q_b_proj.weight", "attn_q_b.weight"},
    {"self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"},
    {"self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.indexer.wq_b.weight", "indexer.attn_q_b.weight"},
    {"self_attn.indexer.wk.weight", "indexer.attn_k.weight"},
    {"self_attn.indexer.k_norm.weight", "indexer.k_norm.weight"},
    {"self_attn.indexer.k_norm.bias", "indexer.k_norm.bias"},
    {"self_attn.indexer.weights_proj.weight", "indexer.proj.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
    {"mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"},
    {"mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"},
    {"mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"},
    {"eh_proj.weight", "nextn.eh_proj.weight"},
    {"enorm.weight", "nextn.enorm.weight"},
    {"hnorm.weight", "nextn.hnorm.weight"},
    {"embed_tokens.weight", "nextn.embed_tokens.weight"},
    {"shared_head.head.weight", "nextn.shared_head_head.weight"},
    {"shared_head.norm.weight", "nextn.shared_head_norm.weight"},
}};

constexpr std::array<GgufNamePair, 3> kExpert = {{
    {"gate_proj.weight", "ffn_gate_exps.weight"},
    {"up_proj.weight", "ffn_up_exps.weight"},
    {"down_proj.weight", "ffn_down_exps.weight"},
}};

constexpr std::array<GgufNamePair, 6> kV4Outside = {{
    {"embed.weight", "token_embd.weight", kStored},
    {"norm.weight", "output_norm.weight", kStored},
    {"head.weight", "output.weight", kStored},
    {"hc_head_fn", "output_hc_fn.weight", kStored},
    {"hc_head_base", "output_hc_base.weight", kStored},
    {"hc_head_scale", "output_hc_scale.weight", kStored},
}};

constexpr std::array<GgufNamePair, 33> kV4Layer = {{
    {"attn_norm.weight", "attn_norm.weight", kStored},
    {"attn.attn_sink", "attn_sinks.weight", kStored},
    {"attn.wq_a.weight", "attn_q_a.weight"},
    {"attn.q_norm.weight", "attn_q_a_norm.weight", kStored},
    {"attn.wq_b.weight", "attn_q_b.weight"},
    {"attn.wkv.weight", "attn_kv.weight"},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight", kStored},
    {"attn.wo_a.weight", "attn_output_a.weight"},
    {"attn.wo_b.weight", "attn_output_b.weight"},
    {"attn.compressor.ape", "attn_compressor_ape.weight", kStored},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight", kStored},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight", kStored},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight", kStored},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight"},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight", kStored},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight", kStored},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight", kStored},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight", kStored},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight", kStored},
    {"hc_attn_fn", "hc_attn_fn.weight", kStored},
    {"hc_attn_base", "hc_attn_base.weight", kStored},
    {"hc_attn_scale", "hc_attn_scale.weight", kStored},
    {"ffn_norm.weight", "ffn_norm.weight", kStored},
    {"hc_ffn_fn", "hc_ffn_fn.weight", kStored},
    {"hc_ffn_base", "hc_ffn_base.weight", kStored},
    {"hc_ffn_scale", "hc_ffn_scale.weight", kStored},
    {"ffn.gate.weight", "ffn_gate_inp.weight", kStored},
    {"ffn.gate.bias", "exp_probs_b.bias", kStored},
    {"ffn.gate.bias_vl", "exp_probs_b_vl.bias", kStored},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", kTable},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight"},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight"},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight"},
}};

constexpr std::array<GgufNamePair, 3> kV4Expert = {{
    {"w1.weight", "ffn_gate_exps.weight"},
    {"w2.weight", "ffn_down_exps.weight"},
    {"w3.weight", "ffn_up_exps.weight"},
}};

const GgufNamePair* FindPair(std::span<const GgufNamePair> pairs, std::string_view gguf) {
  const auto found = std::find_if(pairs.begin(), pairs.end(),
                                  [&](const GgufNamePair& pair) { return pair.gguf == gguf; });
  return found == pairs.end() ? nullptr : &*found;
}

// The number in "blk.N."; takes that from `name`.
std::optional<std::uint64_t> TakeLayer(std::string_view& name) {
  constexpr std::string_view kBlock = "blk.";
  if (!name.starts_with(kBlock)) return std::nullopt;
  const char* const begin = name.data() + kBlock.size();
  const char* const end = name.data() + name.size();
  std::uint64_t layer = 0;
  const auto [behind, error] = std::from_chars(begin, end, layer);
  if (error != std::errc() || behind == end || *behind != '.') return std::nullopt;
  // "blk.03." is another name.
  if (*begin == '0' && behind != begin + 1) return std::nullopt;
  name.remove_prefix(static_cast<std::size_t>(behind + 1 - name.data()));
  return layer;
}

}  // namespace

std::string GgufNames::LayerPrefix(std::uint64_t number) const {
  return fmt::format("{}{}.", layers, number);
}

std::string GgufNames::ExpertName(std::uint64_t number, std::uint64_t expert_number,
                                  std::string_view matrix) const {
  return fmt::format("{}{}.{}{}.{}", layers, number, experts, expert_number, matrix);
}

const GgufNames& V3GgufNames() {
  static constexpr GgufNames kNames = {kOutside,         kLayer,         kExpert,
                                       "model.layers.",  "mlp.experts.",
                                       /*has_kv_b=*/true};
  return kNames;
}

const GgufNames& V4GgufNames() {
  static constexpr GgufNames kNames = {kV4Outside, kV4Layer,       kV4Expert,
                                       "layers.",  "ffn.experts.", /*has_kv_b=*/false};
  return kNames;
}

const GgufNames* FindGgufNames(std::string_view architecture) {
  if (architecture == "deepseek4") return &V4GgufNames();
  const bool as_v3 =
      architecture == "deepseek2" || architecture == "deepseek32" || architecture == "glm-dsa";
  return as_v3 ? &V3GgufNames() : nullptr;
}

std::string GgufLayerPrefix(std::uint64_t layer) { return fmt::format("blk.{}.", layer); }

std::optional<GgufMeaning> MeaningOfGguf(const GgufNames& names, std::string_view gguf) {
  using enum GgufMeaning::Kind;
  if (const GgufNamePair* const pair = FindPair(names.outside, gguf)) {
    return GgufMeaning{kWhole, std::string(pair->model)};
  }
  const std::optional<std::uint64_t> layer = TakeLayer(gguf);
  if (!layer) return std::nullopt;
  const auto of = [&](GgufMeaning::Kind kind, std::string_view name) {
    return GgufMeaning{kind, names.LayerPrefix(*layer) + std::string(name)};
  };
  if (const GgufNamePair* const pair = FindPair(names.layer, gguf)) return of(kWhole, pair->model);
  if (const GgufNamePair* const pair = FindPair(names.expert, gguf)) {
    return GgufMeaning{kExperts, names.ExpertName(*layer, 0, pair->model)};
  }
  if (!names.has_kv_b) return std::nullopt;
  if (gguf == kGgufWholeKvBName) return of(kWhole, kKvBName);
  if (gguf == kGgufKeysName) return of(kKeys, kKvBName);
  if (gguf == kGgufValuesName) return of(kValues, kKvBName);
  return std::nullopt;
}

}  // namespace dsv3::convert

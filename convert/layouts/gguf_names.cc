#include "convert/layouts/gguf_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

namespace dsv3::convert {
namespace {

constexpr std::array<std::string_view, 3> kArchitectures = {"deepseek2", "deepseek32", "glm-dsa"};

constexpr std::array<GgufNamePair, 3> kModelNames = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {kHeadName, "output.weight"},
}};

constexpr std::array<GgufNamePair, 28> kLayerNames = {{
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

constexpr std::array<GgufNamePair, 3> kExpertNames = {{
    {"gate_proj.weight", "ffn_gate_exps.weight"},
    {"up_proj.weight", "ffn_up_exps.weight"},
    {"down_proj.weight", "ffn_down_exps.weight"},
}};

// kv_b_proj in the files of llama.cpp before it kept keys and values apart.
constexpr std::string_view kWholeKvB = "attn_kv_b.weight";

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

bool HasGgufNames(std::string_view architecture) {
  return std::find(kArchitectures.begin(), kArchitectures.end(), architecture) !=
         kArchitectures.end();
}

std::span<const GgufNamePair> GgufModelNames() { return kModelNames; }
std::span<const GgufNamePair> GgufLayerNames() { return kLayerNames; }
std::span<const GgufNamePair> GgufExpertNames() { return kExpertNames; }

std::string ModelLayerPrefix(std::uint64_t layer) { return fmt::format("model.layers.{}.", layer); }
std::string GgufLayerPrefix(std::uint64_t layer) { return fmt::format("blk.{}.", layer); }

std::string ExpertMatrixName(std::uint64_t expert, std::string_view matrix) {
  return fmt::format("mlp.experts.{}.{}", expert, matrix);
}

std::optional<GgufMeaning> MeaningOfGguf(std::string_view gguf) {
  using enum GgufMeaning::Kind;
  if (const GgufNamePair* const pair = FindPair(kModelNames, gguf)) {
    return GgufMeaning{kWhole, std::string(pair->model)};
  }
  const std::optional<std::uint64_t> layer = TakeLayer(gguf);
  if (!layer) return std::nullopt;
  const auto of = [&](GgufMeaning::Kind kind, std::string_view name) {
    return GgufMeaning{kind, ModelLayerPrefix(*layer) + std::string(name)};
  };
  if (const GgufNamePair* const pair = FindPair(kLayerNames, gguf)) return of(kWhole, pair->model);
  if (const GgufNamePair* const pair = FindPair(kExpertNames, gguf)) {
    return of(kExperts, ExpertMatrixName(0, pair->model));
  }
  if (gguf == kWholeKvB) return of(kWhole, kKvBName);
  if (gguf == kGgufKeysName) return of(kKeys, kKvBName);
  if (gguf == kGgufValuesName) return of(kValues, kKvBName);
  return std::nullopt;
}

}  // namespace dsv3::convert

#include "convert/layouts/deepseek_names.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

struct Renaming {
  std::string_view from;
  std::string_view to;
};

// Replaced wherever they stand, in this order.
constexpr std::array<Renaming, 4> kParts = {{
    {"self_attn", "attn"},
    {"mlp", "ffn"},
    {"weight_scale_inv", "scale"},
    {"e_score_correction_bias", "bias"},
}};

// By the segment before the last.
constexpr std::array<Renaming, 22> kModules = {{
    {"embed_tokens", "embed"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"q_proj", "wq"},
    {"q_a_proj", "wq_a"},
    {"q_a_layernorm", "q_norm"},
    {"q_b_proj", "wq_b"},
    {"kv_a_proj_with_mqa", "wkv_a"},
    {"kv_a_layernorm", "kv_norm"},
    {"kv_b_proj", "wkv_b"},
    {"o_proj", "wo"},
    {"gate", "gate"},
    {"gate_proj", "w1"},
    {"down_proj", "w2"},
    {"up_proj", "w3"},
    {"norm", "norm"},
    {"lm_head", "head"},
    {"scale", "scale"},
    // V3.2's indexer:
    {"wq_b", "wq_b"},
    {"wk", "wk"},
    {"k_norm", "k_norm"},
    {"weights_proj", "weights_proj"},
}};

constexpr std::array<std::string_view, 4> kMtpModules = {"enorm", "hnorm", "eh_proj", "head"};

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  std::size_t at = text.find(from);
  while (at != std::string::npos) {
    text.replace(at, from.size(), to);
    at = text.find(from, at + to.size());
  }
}

// The segment before the last; empty where there is one alone.
std::string_view ModuleSegment(std::string_view name) {
  const std::size_t last = name.rfind('.');
  if (last == std::string_view::npos || last == 0) return {};
  const std::size_t before = name.rfind('.', last - 1);
  return before == std::string_view::npos ? name.substr(0, last)
                                          : name.substr(before + 1, last - before - 1);
}

}  // namespace

std::string DeepseekName(std::string_view name, bool mtp) {
  constexpr std::string_view kModel = "model.";
  std::string renamed(name.starts_with(kModel) ? name.substr(kModel.size()) : name);
  for (const Renaming& part : kParts) ReplaceAll(renamed, part.from, part.to);
  const std::string module(ModuleSegment(renamed));
  const auto found = std::find_if(kModules.begin(), kModules.end(),
                                  [&](const Renaming& row) { return row.from == module; });
  if (found != kModules.end()) {
    ReplaceAll(renamed, found->from, found->to);
    return renamed;
  }
  if (mtp && std::find(kMtpModules.begin(), kMtpModules.end(), module) != kMtpModules.end()) {
    return renamed;
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("tensor {}: the names of DeepSeek's inference demo have nothing for the "
                          "module {}; use --format hf-rank for this model",
                          QuoteForMessage(name), QuoteForMessage(module)),
              {"", std::string(name)});
}

std::string DeepseekFileName(std::uint64_t rank, std::uint64_t model_parallel) {
  return fmt::format("model{}-mp{}.safetensors", rank, model_parallel);
}

}  // namespace dsv3::convert

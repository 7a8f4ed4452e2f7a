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

std::string HuggingFaceName(std::string_view demo_name) {
  std::vector<std::string> segments;
  for (std::size_t begin = 0; begin <= demo_name.size();) {
    const std::size_t end = std::min(demo_name.find('.', begin), demo_name.size());
    segments.emplace_back(demo_name.substr(begin, end - begin));
    begin = end + 1;
  }
  std::string name;
  const std::size_t module = segments.size() < 2 ? 0 : segments.size() - 2;
  const bool in_layer = segments.front() == "layers";
  const bool in_indexer = module > 0 && segments[module - 1] == "indexer";
  const bool is_mtp_head = in_layer && segments[module] == "head";
  if (!in_indexer && !is_mtp_head) {
    const auto found = std::find_if(kModules.begin(), kModules.end(), [&](const Renaming& row) {
      return row.to == segments[module];
    });
    if (found != kModules.end()) segments[module] = found->from;
  }
  if (segments.back() == "scale") segments.back() = "weight_scale_inv";
  if (segments.back() == "bias" && segments[module] == "gate") {
    segments.back() = "e_score_correction_bias";
  }
  for (std::size_t i = 0; i < module; ++i) {
    if (segments[i] == "attn") segments[i] = "self_attn";
    if (segments[i] == "ffn") segments[i] = "mlp";
  }
  if (segments.front() != "lm_head") name = "model";
  for (const std::string& segment : segments) name += (name.empty() ? "" : ".") + segment;
  bool is_inverse = false;
  try {
    is_inverse = DeepseekName(name, true) == demo_name;
  } catch (const Error&) {
    is_inverse = false;
  }
  if (is_inverse) return name;
  throw Error(ErrorCode::kBadInput,
              fmt::format("tensor {}: DeepSeek's inference demo of DeepSeek-V3 and V3.2 has no "
                          "tensor of this name, so its Hugging Face name is not known",
                          QuoteForMessage(demo_name)),
              {"", std::string(demo_name)});
}

const LayoutTable& DeepseekNames() {
  static const LayoutTable table = {
      .title = "DeepSeek's inference demo",
      .model_prefixes = {"embed.", "layers.", "norm.", "head."},
      .ignored = {},
      .outside = {},
      .layer = {},
      .mtp = {},
      .main_prefixes = {},
      .mtp_prefixes = {},
      .mtp_prefix = "",
      .copies = {},
      .rename = DeepseekName,
  };
  return table;
}

bool IsRoutedExpert(std::string_view name) {
  return name.find(".experts.") != std::string_view::npos;
}

std::optional<std::size_t> DeepseekCutDimension(std::string_view name) {
  constexpr std::array<std::string_view, 7> kRows = {
      "embed_tokens", "q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "lm_head"};
  const std::string_view module = ModuleSegment(name);
  // MTP layers, which the official script leaves out, have a head of their own.
  if (std::find(kRows.begin(), kRows.end(), module) != kRows.end() ||
      name.ends_with(".shared_head.head.weight")) {
    return 0;
  }
  if (module == "down_proj" || module == "o_proj") return 1;
  return std::nullopt;
}

std::optional<std::uint64_t> DemoRanks(const std::vector<std::string>& files) {
  constexpr std::string_view kModel = "model";
  constexpr std::string_view kRanks = "-mp";
  constexpr std::string_view kSuffix = ".safetensors";
  constexpr std::size_t kMostDigits = 6;
  std::optional<std::uint64_t> ranks;
  for (const std::string& file : files) {
    const std::size_t at = file.find(kRanks);
    if (!file.starts_with(kModel) || !file.ends_with(kSuffix) || at == std::string::npos) {
      return std::nullopt;
    }
    const std::size_t begin = at + kRanks.size();
    if (begin + kSuffix.size() >= file.size()) return std::nullopt;
    const std::string rank = file.substr(kModel.size(), at - kModel.size());
    const std::string count = file.substr(begin, file.size() - kSuffix.size() - begin);
    for (const std::string& number : {rank, count}) {
      if (number.empty() || number.size() > kMostDigits ||
          number.find_first_not_of("0123456789") != std::string::npos) {
        return std::nullopt;
      }
    }
    const std::uint64_t of = std::stoull(count);
    if (std::stoull(rank) >= of || (ranks && *ranks != of)) return std::nullopt;
    ranks = of;
  }
  return ranks;
}

std::string DeepseekFileName(std::uint64_t rank, std::uint64_t model_parallel) {
  return fmt::format("model{}-mp{}.safetensors", rank, model_parallel);
}

}  // namespace dsv3::convert

#include <charconv>
#include <span>
#include <system_error>

#include "convert/model/v4_tensors.h"
#include "convert/parallel/slicing.h"

// The meaning of tensor names. No other file knows it.
namespace dsv3::convert {
namespace {

struct Rule {
  std::string_view path;  // between layer and module
  std::string_view module;
  ModuleKind kind;
  SliceAxis axis;
};

// The experts' number is taken out of the path.
constexpr std::string_view kExperts = "mlp.experts";

constexpr Rule kLayerRules[] = {
    {kExperts, "gate_proj", ModuleKind::kRoutedExpert, SliceAxis::kRows},
    {kExperts, "up_proj", ModuleKind::kRoutedExpert, SliceAxis::kRows},
    {kExperts, "down_proj", ModuleKind::kRoutedExpert, SliceAxis::kCols},
    {"mlp.shared_experts", "gate_proj", ModuleKind::kSharedExpert, SliceAxis::kRows},
    {"mlp.shared_experts", "up_proj", ModuleKind::kSharedExpert, SliceAxis::kRows},
    {"mlp.shared_experts", "down_proj", ModuleKind::kSharedExpert, SliceAxis::kCols},
    {"mlp", "gate_proj", ModuleKind::kDenseMlp, SliceAxis::kRows},
    {"mlp", "up_proj", ModuleKind::kDenseMlp, SliceAxis::kRows},
    {"mlp", "down_proj", ModuleKind::kDenseMlp, SliceAxis::kCols},
    {"self_attn", "q_proj", ModuleKind::kAttention, SliceAxis::kRows},
    {"self_attn", "q_b_proj", ModuleKind::kAttention, SliceAxis::kRows},
    {"self_attn", "kv_b_proj", ModuleKind::kAttention, SliceAxis::kRows},
    {"self_attn", "o_proj", ModuleKind::kAttention, SliceAxis::kCols},
    {"", "embed_tokens", ModuleKind::kEmbedding, SliceAxis::kRows},
    {"shared_head", "head", ModuleKind::kHead, SliceAxis::kRows},
    // Matrices that every rank of the stage holds.
    {"self_attn", "q_a_proj", ModuleKind::kOther, SliceAxis::kNone},
    {"self_attn", "kv_a_proj_with_mqa", ModuleKind::kOther, SliceAxis::kNone},
    {"self_attn.indexer", "wq_b", ModuleKind::kOther, SliceAxis::kNone},
    {"self_attn.indexer", "wk", ModuleKind::kOther, SliceAxis::kNone},
    {"self_attn.indexer", "weights_proj", ModuleKind::kOther, SliceAxis::kNone},
    {"mlp", "gate", ModuleKind::kOther, SliceAxis::kNone},
    {"", "eh_proj", ModuleKind::kOther, SliceAxis::kNone},
};

constexpr Rule kTopRules[] = {
    {"", "embed_tokens", ModuleKind::kEmbedding, SliceAxis::kRows},
    {"", "lm_head", ModuleKind::kHead, SliceAxis::kRows},
};

constexpr std::string_view kV4Experts = "ffn.experts";

// The rows of wo_a and the columns of wo_b are those of groups of heads.
constexpr Rule kV4LayerRules[] = {
    {kV4Experts, "w1", ModuleKind::kRoutedExpert, SliceAxis::kRows},
    {kV4Experts, "w3", ModuleKind::kRoutedExpert, SliceAxis::kRows},
    {kV4Experts, "w2", ModuleKind::kRoutedExpert, SliceAxis::kCols},
    {"ffn.shared_experts", "w1", ModuleKind::kSharedExpert, SliceAxis::kRows},
    {"ffn.shared_experts", "w3", ModuleKind::kSharedExpert, SliceAxis::kRows},
    {"ffn.shared_experts", "w2", ModuleKind::kSharedExpert, SliceAxis::kCols},
    {"attn", "wq_b", ModuleKind::kAttention, SliceAxis::kRows},
    {"attn", "wo_a", ModuleKind::kAttention, SliceAxis::kRows},
    {"attn", "wo_b", ModuleKind::kAttention, SliceAxis::kCols},
    {"attn", kAttentionSink, ModuleKind::kAttention, SliceAxis::kRows},
    // Matrices that every rank of the stage holds.
    {"attn", "wq_a", ModuleKind::kOther, SliceAxis::kNone},
    {"attn", "wkv", ModuleKind::kOther, SliceAxis::kNone},
    {"attn.compressor", "wkv", ModuleKind::kOther, SliceAxis::kNone},
    {"attn.compressor", "wgate", ModuleKind::kOther, SliceAxis::kNone},
    {"attn.indexer", "wq_b", ModuleKind::kOther, SliceAxis::kNone},
    {"attn.indexer", "weights_proj", ModuleKind::kOther, SliceAxis::kNone},
    {"attn.indexer.compressor", "wkv", ModuleKind::kOther, SliceAxis::kNone},
    {"attn.indexer.compressor", "wgate", ModuleKind::kOther, SliceAxis::kNone},
    {"ffn", "gate", ModuleKind::kOther, SliceAxis::kNone},
    {"", "e_proj", ModuleKind::kOther, SliceAxis::kNone},
    {"", "h_proj", ModuleKind::kOther, SliceAxis::kNone},
};

// The module of the head's streams in transformers' names; the releases have none.
constexpr std::string_view kV4Streams = "hc_head";

constexpr Rule kV4TopRules[] = {
    {"", "embed", ModuleKind::kEmbedding, SliceAxis::kRows},
    {"", "embed_tokens", ModuleKind::kEmbedding, SliceAxis::kRows},  // transformers'
    {"", "head", ModuleKind::kHead, SliceAxis::kRows},
};

struct Rules {
  std::span<const Rule> layer;
  std::span<const Rule> top;
  std::string_view experts;  // the path of routed experts
};

Rules RulesOf(const ModelConfig& config) {
  if (config.v4) return {kV4LayerRules, kV4TopRules, kV4Experts};
  return {kLayerRules, kTopRules, kExperts};
}

bool TakePrefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// Takes "12." off the front. Numbers beyond 32 bits, or with leading zeros, are none.
std::optional<std::uint64_t> TakeNumber(std::string_view& text) {
  std::uint32_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop == end || *stop != '.') return std::nullopt;
  if (text.front() == '0' && stop != text.data() + 1) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()) + 1);
  return number;
}

// Takes the component after the last dot, and the dot, off the end of `text`; returns the
// component.
std::string_view SplitLast(std::string_view& text) {
  const std::size_t dot = text.rfind('.');
  const std::string_view last = dot == std::string_view::npos ? text : text.substr(dot + 1);
  text = dot == std::string_view::npos ? std::string_view() : text.substr(0, dot);
  return last;
}

// The part of `name` up to the end of `piece`, which is a part of it.
std::string_view UpTo(std::string_view name, std::string_view piece) {
  return {name.data(), static_cast<std::size_t>(piece.data() + piece.size() - name.data())};
}

const Rule* FindRule(std::span<const Rule> rules, std::string_view path, std::string_view module) {
  for (const Rule& rule : rules) {
    if (rule.module == module && rule.path == path) return &rule;
  }
  return nullptr;
}

// Of a tensor below the routed experts: `rest` is what follows. transformers may keep all experts
// of a layer in one tensor, which then has no number.
void PlaceExpert(std::string_view name, std::string_view rest, const Rules& rules,
                 TensorPlace& place) {
  place.kind = ModuleKind::kRoutedExpert;
  place.unit = {name.data(), static_cast<std::size_t>(rest.data() - 1 - name.data())};
  place.expert = TakeNumber(rest);
  place.parameter = SplitLast(rest);
  place.module = SplitLast(rest);
  if (!place.expert || !rest.empty()) return;
  if (const Rule* rule = FindRule(rules.layer, rules.experts, place.module)) {
    place.axis = rule->axis;
  }
}

}  // namespace

TensorPlace PlaceOf(std::string_view name, std::string_view prefix, const ModelConfig& config) {
  const Rules rules = RulesOf(config);
  constexpr std::string_view kInModel = "model.";
  // transformers' name of V4's head is outside what it calls the model.
  if (config.v4 && IsV4PrefixOfTransformers(prefix)) prefix.remove_suffix(kInModel.size());
  TensorPlace place;
  std::string_view rest = name;
  const bool in_model = TakePrefix(rest, prefix);
  TakePrefix(rest, kInModel);
  std::string_view layers = rest;
  if (in_model && (TakePrefix(layers, "layers.") || TakePrefix(layers, "mtp."))) {
    place.layer = TakeNumber(layers);
    if (place.layer) {
      // Only DeepSeek-V4 counts its MTP layers on their own.
      if (rest.starts_with("mtp.")) *place.layer += config.num_hidden_layers;
      place.stage = StageRule::kLayer;
      place.mtp = config.num_hidden_layers > 0 && *place.layer >= config.num_hidden_layers;
      rest = layers;
    }
  }
  std::string_view below_experts = rest;
  if (place.layer && TakePrefix(below_experts, rules.experts) && TakePrefix(below_experts, ".")) {
    PlaceExpert(name, below_experts, rules, place);
    return place;
  }
  place.parameter = SplitLast(rest);
  // A parameter of attention itself, which is a module of its own here.
  const bool is_sink = config.v4 && place.parameter == kAttentionSink;
  place.module = is_sink ? place.parameter : SplitLast(rest);
  if (!in_model) return place;
  const Rule* const rule = FindRule(place.layer ? rules.layer : rules.top, rest, place.module);
  place.known = rule != nullptr;
  if (rule != nullptr && rule->kind != ModuleKind::kOther) {
    place.kind = rule->kind;
    place.axis = rule->axis;
    place.unit = UpTo(name, rule->kind == ModuleKind::kEmbedding || rule->kind == ModuleKind::kHead
                                ? place.module
                                : rest);
  }
  if (place.layer) return place;
  if (place.kind == ModuleKind::kEmbedding) {
    place.stage = config.tie_word_embeddings ? StageRule::kFirstAndLast : StageRule::kFirst;
  } else if (place.kind == ModuleKind::kHead || (place.module == "norm" && rest.empty()) ||
             (config.v4 &&
              (place.module == kV4Streams || place.parameter.starts_with("hc_head_")))) {
    place.stage = StageRule::kLast;
  }
  return place;
}

std::uint64_t WaysOf(ModuleKind kind, const Topology& topology) {
  switch (kind) {
    case ModuleKind::kEmbedding:
    case ModuleKind::kHead:
      return topology.embed_tp;
    case ModuleKind::kAttention:
      return topology.tp;
    case ModuleKind::kDenseMlp:
      return topology.dense_tp;
    case ModuleKind::kSharedExpert:
      return topology.shared_expert_tp;
    case ModuleKind::kRoutedExpert:
      return topology.moe_tp;
    case ModuleKind::kOther:
      break;
  }
  return 1;
}

}  // namespace dsv3::convert

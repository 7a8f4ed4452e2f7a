#include "convert/layouts/megatron_live_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <system_error>

#include <fmt/format.h>

namespace dsv3::convert {
namespace {

// A number in a name: its place and value.
struct NumberIn {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::uint64_t value = 0;
};

// The number behind `before`; it must end the name, or `after` must follow it.
std::optional<NumberIn> NumberBehind(std::string_view name, std::string_view before, char after) {
  const std::size_t at = name.find(before);
  if (at == std::string_view::npos) return std::nullopt;
  NumberIn number{at + before.size(), 0, 0};
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + number.begin, end, number.value);
  if (error != std::errc() || (stop != end && *stop != after)) return std::nullopt;
  number.end = static_cast<std::size_t>(stop - name.data());
  return number;
}

std::optional<NumberIn> LayerIn(std::string_view name) {
  constexpr std::string_view kLayers = "decoder.layers.";
  return name.starts_with(kLayers) ? NumberBehind(name, kLayers, '.') : std::nullopt;
}

std::optional<NumberIn> ExpertIn(std::string_view name) {
  for (const std::string_view before :
       {".mlp.experts.linear_fc1.weight", ".mlp.experts.linear_fc2.weight",
        ".mlp.experts.local_experts."}) {
    if (const auto number = NumberBehind(name, before, '.')) return number;
  }
  return std::nullopt;
}

std::string Replaced(std::string_view name, const std::optional<NumberIn>& number,
                     std::uint64_t value) {
  if (!number) return std::string(name);
  return fmt::format("{}{}{}", name.substr(0, number->begin), value, name.substr(number->end));
}

constexpr std::array<std::string_view, 6> kRowWeights = {
    ".linear_q_up_proj.weight", ".linear_kv_up_proj.weight", ".linear_q_proj.weight",
    ".word_embeddings.weight",  "output_layer.weight",       ".eh_proj.weight",
};

}  // namespace

MegatronCut MegatronCutOf(std::string_view name, const formats::Shape& shape,
                          const ModelConfig& config) {
  const std::uint64_t kv_rows = config.kv_lora_rank + config.qk_rope_head_dim;
  const auto cut_unless = [&](std::uint64_t rows) {
    return !shape.empty() && shape[0] == rows ? MegatronCut::kWhole : MegatronCut::kRows;
  };
  if (name.ends_with(".linear_q_down_proj.weight")) return cut_unless(config.q_lora_rank);
  if (name.ends_with(".linear_kv_down_proj.weight")) return cut_unless(kv_rows);
  if (name.ends_with(".linear_qkv_down_proj.weight")) {
    return cut_unless(config.q_lora_rank + kv_rows);
  }
  const auto is_end = [&](std::string_view ending) { return name.ends_with(ending); };
  if (std::any_of(kRowWeights.begin(), kRowWeights.end(), is_end)) return MegatronCut::kRows;
  const bool is_numbered = MegatronExpert(name).has_value();
  const auto is_weight_of = [&](std::string_view linear) {
    const std::size_t at = name.find(linear);
    return at != std::string_view::npos && (is_numbered || at + linear.size() == name.size());
  };
  if (is_weight_of(".linear_fc1.weight")) return MegatronCut::kGateUp;
  if (is_weight_of(".linear_fc2.weight") || is_end(".linear_proj.weight")) {
    return MegatronCut::kColumns;
  }
  return MegatronCut::kWhole;
}

std::optional<std::uint64_t> MegatronLayer(std::string_view name) {
  const std::optional<NumberIn> number = LayerIn(name);
  return number ? std::optional(number->value) : std::nullopt;
}

std::string WithMegatronLayer(std::string_view name, std::uint64_t layer) {
  return Replaced(name, LayerIn(name), layer);
}

std::optional<std::uint64_t> MegatronExpert(std::string_view name) {
  const std::optional<NumberIn> number = ExpertIn(name);
  return number ? std::optional(number->value) : std::nullopt;
}

std::string WithMegatronExpert(std::string_view name, std::uint64_t expert) {
  return Replaced(name, ExpertIn(name), expert);
}

}  // namespace dsv3::convert

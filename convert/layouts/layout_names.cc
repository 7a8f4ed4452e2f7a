#include "convert/layouts/layout_names.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kLayerMark = "{L}";
constexpr std::string_view kDepthMark = "{K}";
constexpr std::string_view kExpertMark = "{E}";

bool Has(std::string_view pattern, std::string_view mark) {
  return pattern.find(mark) != std::string_view::npos;
}

// Puts the number in place of the mark; false where the name has none.
bool Fill(std::string& name, std::string_view mark, std::uint64_t number) {
  const std::size_t at = name.find(mark);
  if (at == std::string::npos) return false;
  name.replace(at, mark.size(), std::to_string(number));
  return true;
}

// A Hugging Face name without its numbers.
struct ParsedName {
  std::optional<std::uint64_t> layer;
  std::optional<std::uint64_t> expert;
  std::string pattern;  // behind the layer's number, with {E} for the expert's
};

ParsedName Parse(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  constexpr std::string_view kExperts = ".experts.";
  ParsedName parsed;
  parsed.layer = LayerOf(name, "");
  if (parsed.layer) name.remove_prefix(name.find('.', kLayers.size()) + 1);
  parsed.pattern = name;
  const std::size_t at = name.find(kExperts);
  if (at == std::string_view::npos) return parsed;
  const std::size_t begin = at + kExperts.size();
  std::uint64_t expert = 0;
  const auto [stop, error] =
      std::from_chars(name.data() + begin, name.data() + name.size(), expert);
  if (error != std::errc() || stop == name.data() + name.size() || *stop != '.') return parsed;
  parsed.expert = expert;
  parsed.pattern = fmt::format("{}{}{}", name.substr(0, begin), kExpertMark,
                               name.substr(static_cast<std::size_t>(stop - name.data())));
  return parsed;
}

bool IsOneOf(std::string_view variant, const std::vector<std::string_view>& variants) {
  return variant.empty() || std::find(variants.begin(), variants.end(), variant) != variants.end();
}

}  // namespace

bool LayoutPlaces::IsOf(const std::vector<std::string_view>& variants) const {
  return IsOneOf(variant, variants) && IsOneOf(prefix_variant, variants);
}

LayoutNames::LayoutNames(const LayoutTable& table, const ModelConfig& config)
    : table_(table), config_(config) {
  for (const NameRule& rule : table.outside) outside_[rule.model].push_back(&rule);
  for (const NameRule& rule : table.layer) layer_[rule.model].push_back(&rule);
  for (const NameRule& rule : table.mtp) mtp_[rule.model].push_back(&rule);
}

bool LayoutNames::IsMtp(std::string_view name) const {
  const std::optional<std::uint64_t> layer = LayerOf(name, "");
  return layer && *layer >= config_.num_hidden_layers;
}

bool LayoutNames::KeepsExpertApart(std::string_view name, const LayoutPlaces& places,
                                   const std::vector<std::string_view>& variants) const {
  if (places.pieces.front().rule != &renamed_ || !Parse(name).expert) return false;
  return std::any_of(table_.layer.begin(), table_.layer.end(), [&](const NameRule& rule) {
    return !rule.variant.empty() && IsOneOf(rule.variant, variants);
  });
}

std::vector<LayoutPlaces> LayoutNames::PlacesOf(std::string_view name) const {
  std::vector<LayoutPlaces> places;
  const ParsedName parsed = Parse(name);
  const bool is_mtp = IsMtp(name);
  const auto add = [&](const Rules& rules, const LayerPrefix& prefix) {
    const auto found = rules.find(parsed.pattern);
    if (found == rules.end()) return;
    if (parsed.expert && *parsed.expert >= config_.n_routed_experts) return;
    const bool is_stacked = parsed.layer && !is_mtp && !Has(prefix.text, kLayerMark);
    bool is_first = true;
    for (const NameRule* rule : found->second) {
      if (rule->layers != RuleLayers::kAll &&
          IsMoeLayer(config_, *parsed.layer) != (rule->layers == RuleLayers::kMoe)) {
        continue;
      }
      LayoutPlace place{std::string(prefix.text).append(rule->stack), {}, 0, rule};
      if (parsed.layer) Fill(place.name, kLayerMark, *parsed.layer);
      if (is_mtp) Fill(place.name, kDepthMark, *parsed.layer - config_.num_hidden_layers);
      if (is_stacked) {
        place.axes.push_back(config_.num_hidden_layers);
        place.block = *parsed.layer;
      }
      if (parsed.expert && !Fill(place.name, kExpertMark, *parsed.expert)) {
        place.axes.push_back(config_.n_routed_experts);
        place.block = place.block * config_.n_routed_experts + *parsed.expert;
      }
      if (is_first || places.back().variant != rule->variant) {
        places.push_back({{}, rule->variant, prefix.variant});
      }
      is_first = false;
      places.back().pieces.push_back(std::move(place));
    }
  };
  if (!parsed.layer) add(outside_, {""});
  if (parsed.layer) {
    for (const LayerPrefix& prefix : is_mtp ? table_.mtp_prefixes : table_.main_prefixes) {
      add(layer_, prefix);
    }
  }
  if (is_mtp) add(mtp_, {table_.mtp_prefix});
  if (table_.rename == nullptr) return places;
  try {
    places.push_back({{{table_.rename(name, is_mtp), {}, 0, &renamed_}}, {}, {}});
  } catch (const Error&) {
    // The layout has no name for it, and whoever needs one says so.
  }
  return places;
}

std::optional<std::string_view> LayoutNames::CopiedFrom(std::string_view name) const {
  if (!IsMtp(name)) return std::nullopt;
  const std::string pattern = Parse(name).pattern;
  for (const CopyRule& copy : table_.copies) {
    if (copy.mtp == pattern) return config_.tie_word_embeddings ? copy.tied : copy.main;
  }
  return std::nullopt;
}

}  // namespace dsv3::convert

#include "convert/model/layer_kinds.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "convert/model/config_fields-inl.h"

namespace dsv3::convert {
namespace {

using Json = ConfigFields::Json;

std::uint64_t LayerCount(const ModelConfig& config) {
  return config.num_hidden_layers + config.num_nextn_predict_layers;
}

// The two words that a list may hold for a layer.
struct Words {
  std::string_view yes;
  std::string_view no;
};

constexpr Words kMlpWords = {"sparse", "dense"};
constexpr Words kIndexerWords = {"full", "shared"};
constexpr Words kIndexerLetters = {"F", "S"};
constexpr const char* kMlpTypes = "mlp_layer_types";
constexpr const char* kFrequency = "moe_layer_freq";

// A list has an entry for each main layer, and may have one for each MTP layer behind them.
void RequireLength(const ConfigFields& fields, const char* name, std::size_t length,
                   const ModelConfig& config) {
  if (length == config.num_hidden_layers || length == LayerCount(config)) return;
  const std::string rule =
      config.num_nextn_predict_layers == 0
          ? "; the two must agree"
          : fmt::format(
                " and num_nextn_predict_layers {}; a list has {} entries, or {} with the "
                "MTP layers",
                config.num_nextn_predict_layers, config.num_hidden_layers, LayerCount(config));
  fields.Fail(
      fmt::format("the field '{}' has {} entries, but num_hidden_layers is {}{}, so take the "
                  "config.json that belongs to the weights",
                  fields.PathOf(name), length, config.num_hidden_layers, rule));
}

// Leaves out entries of MTP layers that say what a list without them says, so that equal models
// have equal lists.
std::vector<bool> WithoutUsualMtp(std::vector<bool> kinds, const ModelConfig& config) {
  while (kinds.size() > config.num_hidden_layers && kinds.back()) kinds.pop_back();
  return kinds;
}

bool ReadWord(const ConfigFields& fields, const char* name, std::size_t layer,
              std::string_view word, const Words& words) {
  if (word == words.yes) return true;
  if (word == words.no) return false;
  fields.Fail(
      fmt::format("the field '{}' says {} for layer {}, expected \"{}\" or \"{}\"; take "
                  "the config.json that belongs to the weights",
                  fields.PathOf(name), QuoteForMessage(word), layer, words.yes, words.no));
}

// One of two words for each layer; nothing where the field is absent. `letters`: a text of letters
// may be there in place of the array.
std::optional<std::vector<bool>> ReadWords(const ConfigFields& fields, const char* name,
                                           const Words& words, const Words* letters,
                                           const ModelConfig& config) {
  const Json* value = fields.Find(name);
  if (value == nullptr || value->is_null()) return std::nullopt;
  std::vector<bool> kinds;
  if (value->is_string() && letters != nullptr) {
    const auto& text = value->get_ref<const std::string&>();
    RequireLength(fields, name, text.size(), config);
    for (std::size_t i = 0; i < text.size(); ++i) {
      kinds.push_back(ReadWord(fields, name, i, std::string_view(text).substr(i, 1), *letters));
    }
    return WithoutUsualMtp(std::move(kinds), config);
  }
  if (!value->is_array() || !std::all_of(value->begin(), value->end(),
                                         [](const Json& item) { return item.is_string(); })) {
    fields.Wrong(name, "an array with a string for each layer", *value);
  }
  RequireLength(fields, name, value->size(), config);
  for (const Json& item : *value) {
    kinds.push_back(
        ReadWord(fields, name, kinds.size(), item.get_ref<const std::string&>(), words));
  }
  return WithoutUsualMtp(std::move(kinds), config);
}

// moe_layer_freq as an array: 1 (or true) for each layer with routed experts, 0 for the others.
std::optional<std::vector<bool>> ReadFrequencies(const ConfigFields& fields,
                                                 const ModelConfig& config) {
  const Json* value = fields.Find(kFrequency);
  if (value == nullptr || !value->is_array()) return std::nullopt;
  std::vector<bool> kinds;
  for (const Json& item : *value) {
    if (item != 0 && item != 1 && !item.is_boolean()) {
      fields.Wrong(kFrequency, "a number, or an array with 0 or 1 for each layer", *value);
    }
    kinds.push_back(item == 1 || item == true);
  }
  RequireLength(fields, kFrequency, kinds.size(), config);
  return WithoutUsualMtp(std::move(kinds), config);
}

// Programs read mlp_layer_types or first_k_dense_replace and moe_layer_freq, so both must say the
// same.
void RequireAgreement(const ConfigFields& fields, const char* name, const ModelConfig& config) {
  const auto given = [&](const char* field) {
    const Json* value = fields.Find(field);
    return value != nullptr && !value->is_null();
  };
  const bool has_first = given("first_k_dense_replace");
  for (std::uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const bool listed = config.moe_layers[layer];
    const bool is_dense_by_frequency = layer % config.moe_layer_freq != 0;
    const bool is_before_first = layer < config.first_k_dense_replace;
    const bool by_first =
        has_first && (listed ? is_before_first : !is_before_first && !is_dense_by_frequency);
    const bool by_frequency = !by_first && listed && is_dense_by_frequency;
    if (!by_first && !by_frequency) continue;
    const char* const other = by_first ? "first_k_dense_replace" : kFrequency;
    const std::uint64_t value = by_first ? config.first_k_dense_replace : config.moe_layer_freq;
    fields.Fail(fmt::format(
        "the field '{}' says that layer {} is \"{}\", but '{}' is {}, which says \"{}\"; programs "
        "read one or the other, so correct the one that does not fit the weights, or remove it",
        fields.PathOf(name), layer, listed ? kMlpWords.yes : kMlpWords.no, fields.PathOf(other),
        value, listed ? kMlpWords.no : kMlpWords.yes));
  }
}

// As transformers and engines do: the lists go before the numbers.
std::vector<bool> ReadIndexerLayers(const ConfigFields& fields, const ModelConfig& config) {
  constexpr const char* kTypes = "indexer_types";
  constexpr const char* kPattern = "index_topk_pattern";
  const char* name = kTypes;
  std::optional<std::vector<bool>> kinds =
      ReadWords(fields, kTypes, kIndexerWords, nullptr, config);
  if (!kinds) {
    name = kPattern;
    kinds = ReadWords(fields, kPattern, kIndexerWords, &kIndexerLetters, config);
  }
  if (kinds && !kinds->front()) {
    fields.Fail(
        fmt::format("the field '{}' says that layer 0 shares the indexer of a layer before "
                    "it, but it is the first; take the config.json that belongs to the "
                    "weights",
                    fields.PathOf(name)));
  }
  if (kinds) return *std::move(kinds);

  constexpr std::uint64_t kDefaultOffset = 2;
  const std::uint64_t every =
      std::max<std::uint64_t>(1, fields.Count("index_topk_freq", /*fallback=*/1));
  const Json* offset_value = fields.Find("index_skip_topk_offset");
  const std::uint64_t offset = offset_value == nullptr || offset_value->is_null()
                                   ? kDefaultOffset
                                   : fields.Count("index_skip_topk_offset", kDefaultOffset);
  std::vector<bool> layers;
  if (every == 1) return layers;
  for (std::uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::uint64_t behind = layer + 1 > offset ? layer + 1 - offset : 0;
    layers.push_back(behind % every == 0);
  }
  return layers;
}

}  // namespace

void ReadLayerKinds(const ConfigFields& fields, bool has_indexer, ModelConfig& config) {
  std::optional<std::vector<bool>> kinds = ReadWords(fields, kMlpTypes, kMlpWords, nullptr, config);
  std::optional<std::vector<bool>> frequencies = ReadFrequencies(fields, config);
  if (kinds && frequencies && *kinds != *frequencies) {
    fields.Fail(
        fmt::format("the fields '{}' and '{}' say different things of the same layers; "
                    "programs read one or the other, so correct the one that does not fit "
                    "the weights, or remove it",
                    fields.PathOf(kMlpTypes), fields.PathOf(kFrequency)));
  }
  const char* const list = kinds ? kMlpTypes : kFrequency;
  if (!kinds) kinds = std::move(frequencies);
  if (kinds) {
    config.moe_layers = *std::move(kinds);
    const auto sparse = std::find(config.moe_layers.begin(), config.moe_layers.end(), true);
    if (config.n_routed_experts == 0 && sparse != config.moe_layers.end()) {
      fields.Fail(
          fmt::format("the field '{}' says that layer {} is \"{}\", but "
                      "'n_routed_experts' is 0; take the config.json that belongs to the "
                      "weights",
                      fields.PathOf(list), sparse - config.moe_layers.begin(), kMlpWords.yes));
    }
    if (config.n_routed_experts > 0) RequireAgreement(fields, list, config);
  }
  if (has_indexer) config.indexer_layers = ReadIndexerLayers(fields, config);
}

bool IsMoeLayer(const ModelConfig& config, std::uint64_t layer) {
  if (config.n_routed_experts == 0) return false;
  if (layer < config.moe_layers.size()) return config.moe_layers[layer];
  if (!config.moe_layers.empty()) return true;  // an MTP layer that the list leaves out
  return layer >= config.first_k_dense_replace &&
         layer % std::max<std::uint64_t>(1, config.moe_layer_freq) == 0;
}

bool HasDenseLayers(const ModelConfig& config) {
  for (std::uint64_t layer = 0; layer < LayerCount(config); ++layer) {
    if (!IsMoeLayer(config, layer)) return true;
  }
  return false;
}

std::uint64_t FirstMoeLayer(const ModelConfig& config) {
  std::uint64_t layer = 0;
  while (layer < LayerCount(config) && !IsMoeLayer(config, layer)) ++layer;
  return layer;
}

bool HasIndexer(const ModelConfig& config, std::uint64_t layer) {
  if (config.index_n_heads == 0) return false;
  // MTP layers that a list leaves out hold indexers of their own.
  return layer >= config.indexer_layers.size() || config.indexer_layers[layer];
}

std::optional<std::uint64_t> LayerOf(std::string_view name, std::string_view prefix) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  std::uint64_t number = 0;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, number);
  if (error != std::errc() || stop == end || *stop != '.') return std::nullopt;
  return number;
}

std::pair<std::uint64_t, std::string_view> PlaceInModel(std::string_view name,
                                                        std::string_view prefix) {
  if (const auto layer = LayerOf(name, prefix)) return {*layer + 1, name};
  const bool first = name.find("embed_tokens") != std::string_view::npos;
  return {first ? 0 : UINT64_MAX, name};
}

bool IsOfIndexer(std::string_view name) {
  return name.find(".self_attn.indexer.") != std::string_view::npos;
}

}  // namespace dsv3::convert

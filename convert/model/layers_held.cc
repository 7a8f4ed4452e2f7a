#include "convert/model/layers_held.h"

#include <algorithm>
#include <cstddef>

#include <fmt/format.h>

#include "convert/model/fitting_fields.h"
#include "convert/model/layer_kinds.h"
#include "formats/number_of.h"

namespace dsv3::convert {
namespace {

// Of the tensors of a layer only MTP layers have these.
bool IsOfMtp(std::string_view name) {
  return name.ends_with(".enorm.weight") || name.ends_with(".hnorm.weight") ||
         name.ends_with(".eh_proj.weight") || name.find(".shared_head.") != std::string_view::npos;
}

constexpr std::string_view kExperts = ".mlp.experts.";

// The MLP of a layer that has no experts.
bool IsOfDenseMlp(std::string_view name) {
  return name.find(".mlp.gate_proj.") != std::string_view::npos ||
         name.find(".mlp.up_proj.") != std::string_view::npos ||
         name.find(".mlp.down_proj.") != std::string_view::npos;
}

// The number of the routed expert that a tensor belongs to; fused experts have none.
std::optional<std::size_t> ExpertOf(std::string_view name) {
  constexpr std::size_t kMost = 1 << 20;  // a name may hold any number
  const std::size_t experts = name.find(kExperts);
  if (experts == std::string_view::npos) return std::nullopt;
  name.remove_prefix(experts + kExperts.size());
  const auto number = formats::NumberOf<std::size_t>(name.substr(0, name.find('.')));
  return number && *number < kMost ? number : std::nullopt;
}

// For a main layer whose MLP is of another kind than the config says, or has other experts.
std::string FittingMlp(const ModelConfig& config, const LayersHeld& layers,
                       const ExpectedTensorView& expected) {
  if (expected.name.find(".mlp.") == std::string_view::npos) return "";
  const std::optional<std::uint64_t> dense = layers.FirstDense();
  const bool by_number = config.moe_layers.empty() && config.moe_layer_freq <= 1;
  if (dense && by_number && *dense != config.first_k_dense_replace &&
      IsMoeLayer(config, expected.layer) != (expected.layer >= *dense)) {
    return fmt::format(", or set first_k_dense_replace to {}: so many layers have a dense MLP",
                       *dense);
  }
  const std::optional<std::size_t> expert = ExpertOf(expected.name);
  const std::optional<std::uint64_t> experts = layers.ExpertsOfEach();
  if (!expert || !experts || *expert < *experts) return "";
  return fmt::format(", or set n_routed_experts to {}: each layer holds so many", *experts);
}

// Both counts, where the config's are not those of the layers that are there.
std::string FittingCounts(const ModelConfig& config, const LayersHeld& layers) {
  const std::optional<LayerCounts> there = layers.Counts();
  if (!there) return "";
  const std::string fields = FieldsForLayers(config, *there);
  return fields.empty() ? "" : fmt::format(", or set {}: so many are there", fields);
}

}  // namespace

LayersHeld::LayersHeld(const Catalog& catalog, std::string_view prefix) {
  for (const CatalogTensor& tensor : catalog.tensors()) {
    const std::optional<std::uint64_t> layer = LayerOf(tensor.name, prefix);
    if (!layer) continue;
    held_.insert(*layer);
    if (IsOfIndexer(tensor.name)) indexers_.insert(*layer);
    if (IsOfMtp(tensor.name)) mtp_.insert(*layer);
    if (IsOfDenseMlp(tensor.name)) dense_.insert(*layer);
    if (tensor.name.find(kExperts) == std::string::npos) continue;
    sparse_.insert(*layer);
    const std::optional<std::size_t> expert = ExpertOf(tensor.name);
    if (!expert) continue;
    std::vector<bool>& experts = experts_[*layer];
    experts.resize(std::max(experts.size(), *expert + 1));
    experts[*expert] = true;
  }
}

std::optional<std::uint64_t> LayersHeld::FirstDense() const {
  std::uint64_t first = 0;
  while (dense_.count(first) != 0) ++first;
  for (const std::uint64_t layer : held_) {
    const bool is_dense = dense_.count(layer) != 0;
    const bool is_sparse = sparse_.count(layer) != 0;
    if (is_dense == is_sparse || is_dense != (layer < first)) return std::nullopt;
  }
  return first;
}

std::optional<std::uint64_t> LayersHeld::ExpertsOfEach() const {
  if (experts_.empty()) return std::nullopt;
  const std::size_t count = experts_.begin()->second.size();
  for (const auto& [layer, experts] : experts_) {
    if (experts.size() != count ||
        std::find(experts.begin(), experts.end(), false) != experts.end()) {
      return std::nullopt;
    }
  }
  return count;
}

std::uint64_t LayersHeld::CountFrom(std::uint64_t layer) const {
  std::uint64_t end = layer;
  while (Holds(end)) ++end;
  return end - layer;
}

std::optional<LayerCounts> LayersHeld::Counts() const {
  const std::uint64_t all = CountFrom(0);
  if (all == 0 || HoldsAnyFrom(all)) return std::nullopt;
  const std::uint64_t main = mtp_.empty() ? all : *mtp_.begin();
  for (std::uint64_t layer = main; layer < all; ++layer) {
    if (!IsMtp(layer)) return std::nullopt;
  }
  return LayerCounts{main, all - main};
}

std::string FieldsForLayers(const ModelConfig& config, const LayerCounts& there) {
  std::string fields;
  if (there.main != config.num_hidden_layers) {
    fields = fmt::format("num_hidden_layers to {}", there.main);
  }
  if (there.mtp != config.num_nextn_predict_layers) {
    fields +=
        fmt::format("{}num_nextn_predict_layers to {}", fields.empty() ? "" : " and ", there.mtp);
  }
  return fields;
}

std::string FittingValue(const ModelConfig& config, const LayersHeld& layers,
                         const ExpectedTensorView& expected) {
  if (expected.layer == ExpectedTensor::kNoLayer) {
    if (expected.role != TensorRole::kHead || config.tie_word_embeddings) return "";
    return ", or set tie_word_embeddings to true if the head is the embedding itself";
  }
  if (layers.Holds(expected.layer)) {
    const bool may_share = IsOfIndexer(expected.name) && config.indexer_layers.empty() &&
                           layers.indexers() > 0 && !layers.HoldsIndexer(expected.layer);
    if (may_share) {
      return fmt::format(
          ", or take the config.json of a release whose layers share indexers (indexer_types) if "
          "this is one: {} {} an indexer",
          layers.indexers(), layers.indexers() == 1 ? "layer holds" : "layers hold");
    }
    // A main layer where the config has an MTP layer.
    const bool is_main = expected.mtp && !layers.IsMtp(expected.layer);
    return is_main ? FittingCounts(config, layers) : FittingMlp(config, layers, expected);
  }
  const auto there_counts = layers.Counts();
  if (there_counts && there_counts->mtp > 0 && there_counts->main != config.num_hidden_layers) {
    return FittingCounts(config, layers);
  }
  if (expected.mtp) {
    const std::uint64_t there = layers.CountFrom(config.num_hidden_layers);
    return fmt::format(", or set num_nextn_predict_layers to {} if {}", there,
                       there == 0
                           ? "this MTP layer was left out on purpose"
                           : "the other MTP layers were left out on purpose: that many are there");
  }
  const std::uint64_t there = layers.CountFrom(0);
  if (there == 0 || layers.HoldsAnyFrom(there)) return "";
  return fmt::format(
      ", or set num_hidden_layers to {} if the model was made smaller: that many "
      "layers are there",
      there);
}

std::string FittingValue(const ModelConfig& config, const Catalog& catalog,
                         std::string_view missing) {
  const std::string_view prefix = FindNamePrefix(catalog);
  const LayersHeld layers(catalog, prefix);
  std::string fitting;
  ForEachExpected(config, prefix, [&](const ExpectedTensorView& expected) {
    if (expected.name == missing) fitting = FittingValue(config, layers, expected);
  });
  if (fitting.empty()) fitting = FittingFields(config, catalog, prefix).ForMissing(missing);
  return fitting;
}

}  // namespace dsv3::convert

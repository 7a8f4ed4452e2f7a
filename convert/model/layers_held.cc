#include "convert/model/layers_held.h"

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"

namespace dsv3::convert {
namespace {

// Of the tensors of a layer only MTP layers have these.
bool IsOfMtp(std::string_view name) {
  return name.ends_with(".enorm.weight") || name.ends_with(".hnorm.weight") ||
         name.ends_with(".eh_proj.weight") || name.find(".shared_head.") != std::string_view::npos;
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
  }
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
    return is_main ? FittingCounts(config, layers) : "";
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
  return fitting;
}

}  // namespace dsv3::convert

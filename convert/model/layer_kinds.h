#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "convert/model/model_config.h"

// Which layers have routed experts, and which hold an indexer of their own. No other file decides
// it. Layers from num_hidden_layers on are MTP layers. Thread-safe.
namespace dsv3::convert {

// Whether a layer, main or MTP, has routed experts.
bool IsMoeLayer(const ModelConfig& config, std::uint64_t layer);

// Whether any layer, main or MTP, has a dense MLP.
bool HasDenseLayers(const ModelConfig& config);

// The first layer with routed experts; the number of all layers where there is none.
std::uint64_t FirstMoeLayer(const ModelConfig& config);

// Whether a layer holds an indexer: not where the model has none, and not where the layer uses the
// one of a layer before it.
bool HasIndexer(const ModelConfig& config, std::uint64_t layer);

// The layer that a tensor's name says, behind `prefix` and "model.layers."; nothing where the name
// says none.
std::optional<std::uint64_t> LayerOf(std::string_view name, std::string_view prefix);

// Where releases have a tensor, for sorting: the embedding, the layers, norm and head; by name
// within these. Refers to `name`.
std::pair<std::uint64_t, std::string_view> PlaceInModel(std::string_view name,
                                                        std::string_view prefix);

// Whether the name is one of a layer's indexer.
bool IsOfIndexer(std::string_view name);

}  // namespace dsv3::convert

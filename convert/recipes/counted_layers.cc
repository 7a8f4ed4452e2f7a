#include "convert/recipes/counted_layers.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/layer_kinds.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {

void RequireCountedLayers(const OpenedModel& model, std::string_view layout) {
  const ModelConfig& config = model.config;
  if (!config.known || config.is_nextn) return;
  const std::string_view prefix = FindNamePrefix(model.catalog);
  const std::uint64_t counted = config.num_hidden_layers + config.num_nextn_predict_layers;
  const CatalogTensor* first = nullptr;
  std::uint64_t layers = counted;
  for (const CatalogTensor& tensor : model.catalog.tensors()) {
    const std::optional<std::uint64_t> layer = LayerOf(tensor.name, prefix);
    if (!layer || *layer < counted) continue;
    if (first == nullptr) first = &tensor;
    layers = std::max(layers, *layer + 1);
  }
  if (first == nullptr) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("tensor {}: it is of a layer behind the {} that config.json counts, so "
                  "that who reads {} would not find it; set num_nextn_predict_layers to {} "
                  "where the layers behind num_hidden_layers are MTP layers",
                  QuoteForMessage(first->name), counted, layout, layers - config.num_hidden_layers),
      {"", first->name});
}

}  // namespace dsv3::convert

#include "convert/verify/gguf_left_out.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "convert/layouts/gguf_names.h"
#include "convert/model/expected_tensors.h"
#include "convert/parallel/slicing.h"

namespace dsv3::convert {
namespace {

// Where a token's number gives the experts, the router's bias says nothing.
bool IsBiasOfHashLayer(std::string_view name, const ModelConfig& config) {
  constexpr std::string_view kLayers = "layers.";
  if (!config.v4 || !name.starts_with(kLayers) || !name.ends_with(".ffn.gate.bias")) return false;
  const std::string_view number =
      name.substr(kLayers.size(), name.find('.', kLayers.size()) - kLayers.size());
  std::uint64_t layer = 0;
  std::from_chars(number.data(), number.data() + number.size(), layer);
  return layer < config.v4->num_hash_layers;
}

}  // namespace

std::vector<bool> FindLeftOutOfGguf(const OpenedModel& model, const OpenedModel& gguf) {
  const std::vector<CatalogTensor>& tensors = model.catalog.tensors();
  const ModelConfig& config = model.config;
  const std::string_view prefix = FindNamePrefix(model.catalog);
  const auto is_mtp = [&](std::string_view name) {
    return config.known && PlaceOf(name, prefix, config).mtp;
  };
  const bool has_mtp =
      std::any_of(gguf.catalog.tensors().begin(), gguf.catalog.tensors().end(),
                  [&](const CatalogTensor& tensor) { return is_mtp(tensor.name); });
  const std::string head = std::string(prefix) + std::string(kHeadName);
  std::vector<bool> left_out(tensors.size(), false);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    left_out[i] = (!has_mtp && is_mtp(name)) || !name.starts_with(prefix) ||
                  (config.tie_word_embeddings && name == head) ||
                  name.ends_with(".rotary_emb.inv_freq") || IsBiasOfHashLayer(name, config);
  }
  return left_out;
}

}  // namespace dsv3::convert

#include "convert/verify/gguf_left_out.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "convert/layouts/gguf_names.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/layer_kinds.h"

namespace dsv3::convert {
namespace {

bool IsMtpTensor(std::string_view name, std::string_view prefix, const ModelConfig& config) {
  const std::optional<std::uint64_t> layer = LayerOf(name, prefix);
  return config.known && layer && *layer >= config.num_hidden_layers;
}

}  // namespace

std::vector<bool> FindLeftOutOfGguf(const OpenedModel& model, const OpenedModel& gguf) {
  const std::vector<CatalogTensor>& tensors = model.catalog.tensors();
  const ModelConfig& config = model.config;
  const std::string_view prefix = FindNamePrefix(model.catalog);
  const bool has_mtp = std::any_of(
      gguf.catalog.tensors().begin(), gguf.catalog.tensors().end(),
      [&](const CatalogTensor& tensor) { return IsMtpTensor(tensor.name, prefix, config); });
  const std::string head = std::string(prefix) + std::string(kHeadName);
  std::vector<bool> left_out(tensors.size(), false);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    left_out[i] = (!has_mtp && IsMtpTensor(name, prefix, config)) || !name.starts_with(prefix) ||
                  (config.tie_word_embeddings && name == head) ||
                  name.ends_with(".rotary_emb.inv_freq");
  }
  return left_out;
}

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/recipes/model_edit.h"

namespace dsv3::convert {

// Which tensors belong to MTP layers. Refers to the config.
class MtpNames {
 public:
  // Throws Error (kBadInput) for a config that does not count its layers.
  MtpNames(const Catalog& catalog, const ModelConfig& config);

  bool Holds(std::string_view name) const;
  bool HoldsAny(const ModelEdit& edit) const;
  // The tensor of the main model that an MTP layer's tensor is a copy of, by what is behind the
  // layer's name; kNone where it is none.
  std::uint32_t MainOf(const Catalog& catalog, std::string_view rest) const;
  // The same of a catalog's appended model.
  std::uint32_t MainOfAppended(const Catalog& catalog, std::string_view rest) const;
  // "model.layers.61."
  std::string LayerName(std::uint64_t layer) const;

 private:
  const ModelConfig& config_;
  std::string prefix_;  // owned, since catalogs grow
};

// What engines share with the main model, behind the layer's name.
inline constexpr std::string_view kSharedEmbedding = "embed_tokens.weight";
inline constexpr std::string_view kSharedHead = "shared_head.head.weight";

}  // namespace dsv3::convert

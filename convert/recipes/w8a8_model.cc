#include "convert/recipes/w8a8_model.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "convert/layouts/mindformers_w8a8_names.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

bool HasBeside(const Catalog& catalog, std::string_view tensor, std::string_view part) {
  const std::size_t dot = tensor.rfind('.');
  if (dot == std::string_view::npos) return false;
  return catalog.Find(std::string(tensor.substr(0, dot + 1)).append(part)) != Catalog::kNone;
}

bool IsStatic(const Catalog& catalog, std::string_view tensor) {
  return HasBeside(catalog, tensor, "deq_scale");
}

}  // namespace

bool IsW8A8Model(const Catalog& catalog, const ScaledWeights& scaled) {
  return !scaled.formed.empty() &&
         std::all_of(scaled.formed.begin(), scaled.formed.end(),
                     [&](const ScaledWeights::FormedWeight& formed) {
                       const CatalogTensor& tensor = catalog.tensors()[formed.weight];
                       const bool by_token = HasBeside(catalog, tensor.name, "weight_scale") &&
                                             HasBeside(catalog, tensor.name, "weight_offset");
                       return tensor.dtype == formats::Dtype::kI8 && tensor.shape.size() == 2 &&
                              (by_token || IsStatic(catalog, tensor.name));
                     });
}

bool IsLeftOutOfW8A8(const Catalog& catalog, const CatalogTensor& tensor) {
  return IsW8A8Column(tensor.name) && IsStatic(catalog, tensor.name);
}

std::string W8A8Description(const Catalog& catalog) {
  constexpr std::string_view kByToken = "W8A8_DYNAMIC";
  formats::JsonWriter json(2);
  json.BeginObject();
  json.String("model_quant_type", kByToken);
  for (const CatalogTensor& tensor : catalog.tensors()) {
    std::string_view kind = "FLOAT";
    if (IsStatic(catalog, tensor.name)) {
      kind = "W8A8";
    } else if (HasBeside(catalog, tensor.name, "weight_offset")) {
      kind = kByToken;
    }
    json.String(tensor.name, kind);
  }
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::convert

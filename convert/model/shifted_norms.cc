#include "convert/model/shifted_norms.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "convert/model/quantized_form.h"
#include "convert/model/scaled_weights.h"

namespace dsv3::convert {
namespace {

struct NormLayers {
  std::string_view norm;  // how its bias ends
  std::vector<std::string_view> behind;
};

const std::array<NormLayers, 3>& Norms() {
  static const std::array<NormLayers, 3> norms = {{
      {"input_layernorm.bias",
       {"self_attn.q_proj", "self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa",
        "self_attn.indexer.wk", "self_attn.indexer.weights_proj"}},
      {"self_attn.q_a_layernorm.bias", {"self_attn.q_b_proj", "self_attn.indexer.wq_b"}},
      {"post_attention_layernorm.bias",
       {"mlp.gate_proj", "mlp.up_proj", "mlp.gate", "mlp.experts.0.gate_proj",
        "mlp.shared_experts.gate_proj"}},
  }};
  return norms;
}

bool HasWeight(const Catalog& catalog, const std::string& module) {
  const std::string weight = module + ".weight";
  if (catalog.Find(weight) != Catalog::kNone) return true;
  const std::vector<std::string> others = NamesBesideWeight(weight);
  return std::any_of(others.begin(), others.end(),
                     [&](const std::string& name) { return catalog.Find(name) != Catalog::kNone; });
}

}  // namespace

std::vector<ShiftedNorm> FindShiftedNorms(const Catalog& catalog) {
  std::vector<ShiftedNorm> found;
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    if (tensor.shape.size() != 1 || !ScaleFormatOf(tensor.dtype)) continue;
    for (const NormLayers& norm : Norms()) {
      if (!tensor.name.ends_with(norm.norm)) continue;
      const std::string prefix = tensor.name.substr(0, tensor.name.size() - norm.norm.size());
      ShiftedNorm shifted{i, {}};
      bool is_static = false;
      for (const std::string_view layer : norm.behind) {
        std::string module = prefix + std::string(layer);
        if (!HasWeight(catalog, module)) continue;
        is_static = is_static || catalog.Find(module + ".quant_bias") != Catalog::kNone;
        shifted.modules.push_back(std::move(module));
      }
      if (is_static) found.push_back(std::move(shifted));
    }
  }
  return found;
}

}  // namespace dsv3::convert

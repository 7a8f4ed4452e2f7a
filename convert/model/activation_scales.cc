#include "convert/model/activation_scales.h"

#include <algorithm>

namespace dsv3::convert {

std::vector<std::string> ActivationScaleNames(std::string_view weight) {
  constexpr std::string_view kWeight = ".weight";
  const bool is_module = weight.ends_with(kWeight);
  std::string base(weight.substr(0, weight.size() - (is_module ? kWeight.size() : 0)));
  base += is_module ? "." : "_";
  return {base + "input_scale", base + "activation_scale", base + "input_scale_ub"};
}

std::vector<std::uint32_t> FindActivationScales(const Catalog& catalog,
                                                const std::vector<ScaledWeight>& weights) {
  std::vector<std::uint32_t> found;
  for (const ScaledWeight& pair : weights) {
    for (const std::string& name : ActivationScaleNames(catalog.tensors()[pair.weight].name)) {
      const std::uint32_t position = catalog.Find(name);
      if (position != Catalog::kNone) found.push_back(position);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool IsCacheScale(std::string_view name) {
  return name.ends_with(".k_scale") || name.ends_with(".v_scale");
}

}  // namespace dsv3::convert

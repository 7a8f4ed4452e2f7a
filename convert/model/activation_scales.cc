#include "convert/model/activation_scales.h"

#include <algorithm>
#include <iterator>

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

bool IsAttentionScale(std::string_view name) {
  constexpr std::string_view kParts[] = {".scale", ".offset"};
  constexpr std::string_view kModules[] = {".fa_q", ".fa_k", ".fa_v"};
  for (const std::string_view part : kParts) {
    if (!name.ends_with(part)) continue;
    const std::string_view module = name.substr(0, name.size() - part.size());
    return std::any_of(std::begin(kModules), std::end(kModules),
                       [&](std::string_view each) { return module.ends_with(each); });
  }
  return false;
}

}  // namespace dsv3::convert

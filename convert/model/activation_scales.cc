#include "convert/model/activation_scales.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"
#include "convert/model/code_names.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// The activation scale of a weight "….weight", by any name that a form gives it.
std::optional<std::string> FindActivationScale(const Catalog& catalog, const std::string& weight) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<std::string> names = ActivationScaleNames(weight);
  const std::string base = weight.substr(0, weight.size() - kWeight.size());
  names.push_back(base + ".input_global_scale");
  // W4AFP8 calls the matrices of an expert as DeepSeek's own code does.
  constexpr std::string_view kOwn[] = {".gate_proj", ".down_proj", ".up_proj"};
  for (std::size_t i = 0; i < std::size(kOwn); ++i) {
    if (!base.ends_with(kOwn[i])) continue;
    names.push_back(
        fmt::format("{}.w{}.input_scale", base.substr(0, base.size() - kOwn[i].size()), i + 1));
  }
  const auto found = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
    return catalog.Find(name) != Catalog::kNone;
  });
  return found == names.end() ? std::nullopt : std::optional(*found);
}

// Of the weights of one place: how many have an activation scale.
struct Place {
  std::uint64_t with = 0;
  std::uint64_t without = 0;
  std::uint32_t first_without = Catalog::kNone;
  std::string example;  // the first activation scale
};

}  // namespace

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

formats::Findings FindUnevenActivationScales(const Catalog& catalog, const ScaledWeights& weights) {
  std::map<std::string, Place> places;
  const auto visit = [&](std::uint32_t position) {
    const std::string weight = WeightOfCodes(catalog.tensors()[position].name);
    if (!weight.ends_with(".weight")) return;
    Place& place = places[NamePattern(weight)];
    const std::optional<std::string> scale = FindActivationScale(catalog, weight);
    if (scale && place.with++ == 0) place.example = *scale;
    if (!scale && place.without++ == 0) place.first_without = position;
  };
  for (const ScaledWeight& pair : weights.pairs) visit(pair.weight);
  for (const auto& formed : weights.formed) visit(formed.weight);
  formats::Findings findings;
  for (const auto& [pattern, place] : places) {
    if (place.with == 0 || place.without == 0) continue;
    const CatalogTensor& tensor = catalog.tensors()[place.first_without];
    const std::string& file = catalog.files()[tensor.extent.file].name;
    findings.push_back(
        {formats::Severity::kWarning, "uneven-activation-scales", file, tensor.name,
         fmt::format("{}: tensor {} has no scale of activations, but others of {} have one ({}): "
                     "{} with, {} without. Engines that use it need it for each of them; the "
                     "weights do not",
                     formats::ShownPath(file), QuoteForMessage(tensor.name),
                     QuoteForMessage(pattern), QuoteForMessage(place.example), place.with,
                     place.without)});
  }
  return findings;
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

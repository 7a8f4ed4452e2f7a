#include "convert/verify/compare_pairs.h"

#include <algorithm>
#include <string_view>

namespace dsv3::convert {
namespace {

// The formats of weights whose scales are found.
bool IsScaledFp8(formats::Dtype dtype) {
  return dtype == formats::Dtype::kF8E4M3 || dtype == formats::Dtype::kF8E5M2;
}

}  // namespace

std::vector<TensorPair> PairTensors(const TwoCheckpoints& both) {
  const Catalog& catalog = both.catalog;
  const auto count = static_cast<std::uint32_t>(catalog.tensors().size());
  const auto other_of = [&](std::uint32_t tensor) {
    const std::string_view name = catalog.tensors()[tensor].name;
    return tensor < catalog.tensors_end() ? catalog.FindAppended(name) : catalog.Find(name);
  };

  const ScaleMap scales(both.scaled, count);
  std::vector<bool> within(count, false);  // scales that are compared through their weight
  for (const ScaledWeight& pair : both.scaled) {
    const std::uint32_t other = other_of(pair.weight);
    if (other == Catalog::kNone) continue;
    within[pair.scale] =
        scales.OfWeight(other) != nullptr || !IsScaledFp8(catalog.tensors()[other].dtype);
  }

  std::vector<TensorPair> pairs;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t other = other_of(i);
    if (within[i] && (other == Catalog::kNone || within[other])) continue;
    if (i < catalog.tensors_end()) {
      pairs.push_back({i, other, scales.OfWeight(i),
                       other == Catalog::kNone ? nullptr : scales.OfWeight(other)});
    } else if (other == Catalog::kNone) {
      pairs.push_back({Catalog::kNone, i, nullptr, scales.OfWeight(i)});
    }
  }
  const auto name_of = [&](const TensorPair& pair) -> std::string_view {
    return catalog.tensors()[pair.a != Catalog::kNone ? pair.a : pair.b].name;
  };
  std::sort(pairs.begin(), pairs.end(),
            [&](const TensorPair& x, const TensorPair& y) { return name_of(x) < name_of(y); });
  return pairs;
}

}  // namespace dsv3::convert

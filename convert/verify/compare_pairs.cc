#include "convert/verify/compare_pairs.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "convert/model/activation_scales.h"
#include "convert/model/code_names.h"
#include "convert/model/quantized_form.h"

namespace dsv3::convert {
namespace {

// The formats of weights whose scales are found.
bool IsScaledFp8(formats::Dtype dtype) {
  return dtype == formats::Dtype::kF8E4M3 || dtype == formats::Dtype::kF8E5M2;
}

// Finds tensors of the other checkpoint.
class Others {
 public:
  Others(const Catalog& catalog, const ScaleMap& scales) : catalog_(catalog), scales_(scales) {}

  // What the tensor is compared with: one of its name, or of the weight that its codes make.
  std::uint32_t Of(std::uint32_t tensor) const {
    const std::string& name = catalog_.tensors()[tensor].name;
    const std::uint32_t same = FindOther(tensor, name);
    if (same != Catalog::kNone) return same;
    const std::string weight = WeightOfCodes(name);
    if (weight != name) {
      return scales_.OfWeight(tensor) == nullptr ? Catalog::kNone : FindOther(tensor, weight);
    }
    for (const std::string& codes : OtherCodeNamesOf(name)) {
      const std::uint32_t other = FindOther(tensor, codes);
      if (other != Catalog::kNone && scales_.OfWeight(other) != nullptr) return other;
    }
    return Catalog::kNone;
  }

  // In the checkpoint of `tensor`.
  std::uint32_t FindBeside(std::uint32_t tensor, std::string_view name) const {
    return tensor < catalog_.tensors_end() ? catalog_.Find(name) : catalog_.FindAppended(name);
  }

 private:
  std::uint32_t FindOther(std::uint32_t tensor, std::string_view name) const {
    return tensor < catalog_.tensors_end() ? catalog_.FindAppended(name) : catalog_.Find(name);
  }

  const Catalog& catalog_;
  const ScaleMap& scales_;
};

}  // namespace

std::vector<TensorPair> PairTensors(const TwoCheckpoints& both) {
  const Catalog& catalog = both.catalog;
  const auto count = static_cast<std::uint32_t>(catalog.tensors().size());
  const ScaleMap scales(both.scaled, count);
  const Others others(catalog, scales);
  const auto other_of = [&](std::uint32_t tensor) { return others.Of(tensor); };
  // Tensors beside a weight that are compared through it.
  std::vector<bool> within(count, false);
  for (const ScaledWeight& pair : both.scaled) {
    const std::uint32_t other = other_of(pair.weight);
    if (other == Catalog::kNone) continue;
    const CatalogTensor& codes = catalog.tensors()[pair.weight];
    const bool through_weight =
        scales.OfWeight(other) != nullptr || !IsScaledFp8(catalog.tensors()[other].dtype);
    within[pair.scale] = through_weight;
    if (IsScaledFp8(codes.dtype)) continue;
    for (const std::string& name : NamesBesideWeight(WeightOfCodes(codes.name))) {
      const std::uint32_t beside = others.FindBeside(pair.weight, name);
      if (beside != Catalog::kNone && beside != pair.weight) within[beside] = through_weight;
    }
  }
  // Scales of attention on INT8 go with the codes.
  for (std::uint32_t i = 0; i < count; ++i) {
    if (IsAttentionScale(catalog.tensors()[i].name) && other_of(i) == Catalog::kNone) {
      within[i] = true;
    }
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

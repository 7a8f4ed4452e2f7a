#include "convert/recipes/gguf_preflight.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/model/scale_fmt.h"
#include "convert/plan/gguf_four_bit_expression.h"
#include "convert/recipes/check_scales.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "quant/dequantize.h"
#include "quant/gguf_four_bit.h"
#include "quant/quantize.h"

namespace dsv3::convert {
namespace {

// Looks at the scales that become the F16 scales of Q4_0.
class HalfScales {
 public:
  HalfScales(const Catalog& catalog, const std::vector<ScaledWeight>& kept) : catalog_(catalog) {
    for (const ScaledWeight& weight : kept) {
      if (FourBitGgufType(weight) != formats::GgufType::kQ4_0) continue;
      looks_.emplace(weight.scale, Look{.weight = &weight});
    }
  }

  // Takes the next bytes of a scale tensor; one thread at a time for each tensor.
  void Take(std::uint32_t tensor, std::span<const std::byte> bytes) {
    const auto found = looks_.find(tensor);
    if (found == looks_.end()) return;
    Look& look = found->second;
    std::vector<float> scales;
    quant::DecodeScales(look.weight->scale_format, bytes, scales);
    for (std::size_t i = 0; i < scales.size() && !look.bad; ++i) {
      if (!quant::HasExactF16(scales[i])) look.bad = Bad{look.seen + i, scales[i]};
    }
    look.seen += scales.size();
  }

  // Throws for the first bad scale in the order of `kept`.
  void Judge(const std::vector<ScaledWeight>& kept) const {
    for (const ScaledWeight& weight : kept) {
      const auto found = looks_.find(weight.scale);
      if (found == looks_.end() || !found->second.bad) continue;
      const auto& [place, value] = *found->second.bad;
      const CatalogTensor& scale = catalog_.tensors()[weight.scale];
      const std::string& file = catalog_.files()[scale.extent.file].name;
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: scale {} is {} at [{}, {}], which is no F16, and Q4_0 has F16 "
                              "scales; without --keep-4bit the values are rounded to --type",
                              formats::ShownPath(file), QuoteForMessage(scale.name), value,
                              place / weight.ScaleCols(), place % weight.ScaleCols()),
                  {file, scale.name});
    }
  }

 private:
  struct Bad {
    std::uint64_t place = 0;
    float value = 0;
  };
  struct Look {
    const ScaledWeight* weight = nullptr;
    std::uint64_t seen = 0;  // scales
    std::optional<Bad> bad = {};
  };

  const Catalog& catalog_;
  std::unordered_map<std::uint32_t, Look> looks_;  // by scale
};

}  // namespace

SideDigests CheckGgufWeights(const Catalog& catalog, const std::vector<ScaledWeight>& weights,
                             const std::vector<ScaledWeight>& kept, bool sha256,
                             const PreflightRun& run, ProgressSink& progress,
                             const StopToken& stop) {
  SideDigests digests = run.known;
  if (weights.empty()) return digests;
  CheckWeightShapes(
      catalog, weights, [](std::string_view) { return true; }, run.sources, stop);
  HalfScales halves(catalog, kept);
  ScaleLook look;
  look.advice = "take a checkpoint whose scales are sound";
  look.visit = [&](std::uint32_t tensor, std::span<const std::byte> bytes) {
    halves.Take(tensor, bytes);
  };
  ScaleCheck check = CheckScales(catalog, weights, /*allow_bad_scales=*/false, sha256, run.sources,
                                 progress, stop, run.known, look);
  halves.Judge(kept);
  if (auto warning = CheckScalesOfZeros(catalog, weights, check.significands)) {
    run.warn(std::move(*warning));
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    digests.emplace(weights[i].scale, std::move(check.digests[i]));
  }
  for (auto& [tensor, found] : check.beside) digests.emplace(tensor, std::move(found));
  return digests;
}

}  // namespace dsv3::convert

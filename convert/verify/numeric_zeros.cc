#include "convert/verify/numeric_zeros.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "convert/model/zero_weights.h"
#include "convert/verify/numeric_judge.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Severity;

// An interrupted download may leave the file's full length with zeros in it.
constexpr std::string_view kHole = "this part of the file was never written: fetch the file again";

// "model.layers.3.mlp.experts." and "model.layers.3.mlp.experts.17." of a tensor of one expert;
// empty for others.
struct ExpertName {
  std::string_view layer;
  std::string_view expert;
};

ExpertName ExpertOf(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t at = name.rfind(kExperts);
  if (at == name.npos) return {};
  const std::size_t number = at + kExperts.size();
  const std::size_t end = name.find_first_not_of("0123456789", number);
  if (end == number || end == name.npos || name[end] != '.') return {};
  return {name.substr(0, number), name.substr(0, end + 1)};
}

bool IsAllZero(const Measurement& m) {
  return m.values != 0 && m.absmax == 0 && m.finite == m.values;
}

std::vector<bool> FindPrunedExperts(const Catalog& catalog,
                                    const std::vector<Measurement>& measurements) {
  std::map<std::string_view, bool> expert_has_values;
  std::map<std::string_view, bool> layer_has_values;
  const auto each = [&](const auto& visit) {
    for (std::size_t i = 0; i < measurements.size(); ++i) {
      const CatalogTensor& tensor = catalog.tensors()[i];
      const ExpertName name = ExpertOf(tensor.name);
      if (!name.expert.empty() && IsWeightMatrix(tensor.name, tensor.dtype, tensor.shape)) {
        visit(i, name);
      }
    }
  };
  each([&](std::size_t i, const ExpertName& name) {
    const bool has_values = !IsAllZero(measurements[i]);
    expert_has_values[name.expert] |= has_values;
    layer_has_values[name.layer] |= has_values;
  });
  std::vector<bool> pruned(measurements.size());
  each([&](std::size_t i, const ExpertName& name) {
    pruned[i] = !expert_has_values.at(name.expert) && layer_has_values.at(name.layer);
  });
  return pruned;
}

}  // namespace

ZeroJudge::ZeroJudge(const ValueCheckpoint& checkpoint,
                     const std::vector<Measurement>& measurements)
    : catalog_(checkpoint.model.catalog),
      measurements_(measurements),
      scales_(checkpoint.scaled.pairs, catalog_.tensors().size()),
      derived_(TensorsOf(checkpoint.model).derived),
      pruned_(FindPrunedExperts(catalog_, measurements)) {}

std::optional<ZeroFinding> ZeroJudge::Of(std::uint32_t tensor) const {
  const Measurement& m = measurements_[tensor];
  if (const ScaledWeight* const weight = scales_.OfScale(tensor)) return OfScale(tensor, *weight);
  if (IsAllZero(m)) return OfAllZero(tensor);
  if (m.zero_blocks.blocks == 0) return OfRuns(tensor);
  return ZeroFinding{Severity::kError, "zero-blocks",
                     fmt::format("{} {} all zero, but {}; {}", m.zero_blocks.blocks,
                                 m.zero_blocks.blocks == 1 ? "block is" : "blocks are",
                                 ZeroBlocksSay(tensor), kHole)};
}

std::optional<ZeroFinding> ZeroJudge::OfScale(std::uint32_t scale,
                                              const ScaledWeight& weight) const {
  const std::uint64_t vanished = measurements_[weight.weight].vanished;
  if (scale != weight.scale || vanished == 0) return std::nullopt;
  return ZeroFinding{
      Severity::kError, "zero-scales",
      fmt::format(
          "{} of its scales {} 2^-127 (the byte 0), so that {} of {} {} nearly zero, and no "
          "tool writes this scale for a block that has values; {}",
          measurements_[scale].significands.least_e8m0(),
          measurements_[scale].significands.least_e8m0() == 1 ? "is" : "are",
          vanished == 1 ? "one value" : fmt::format("{} values", vanished),
          QuoteForMessage(catalog_.tensors()[weight.weight].name), vanished == 1 ? "is" : "are",
          kHole)};
}

ZeroFinding ZeroJudge::OfAllZero(std::uint32_t tensor) const {
  const CatalogTensor& t = catalog_.tensors()[tensor];
  const Measurement& m = measurements_[tensor];
  const std::string all = fmt::format("all {} values are zero", m.values);
  if (m.zero_blocks.blocks != 0) {
    return {Severity::kError, "all-zero",
            fmt::format("{}, but {}; {}", all, ZeroBlocksSay(tensor), kHole)};
  }
  if (scales_.OfWeight(tensor) != nullptr && IsFp8(t.dtype)) {
    return {Severity::kWarning, "all-zero",
            fmt::format("{}, and its scales are those of zeros, so it was zero when it was "
                        "quantised; if the model was trained, compare it with where it came from",
                        all)};
  }
  if (pruned_[tensor]) {
    return {Severity::kWarning, "all-zero",
            fmt::format("{}, as are all matrices of this expert; unless the expert was pruned, {}",
                        all, kHole)};
  }
  if (scales_.OfWeight(tensor) != nullptr || IsWeightMatrix(t.name, t.dtype, t.shape)) {
    return {Severity::kError, "all-zero",
            fmt::format("{}, and no trained weight matrix is; {}", all, kHole)};
  }
  return {Severity::kWarning, "all-zero",
          fmt::format("{}; if the model was trained, the tensor was never written: compare it with "
                      "where it came from",
                      all)};
}

std::optional<ZeroFinding> ZeroJudge::OfRuns(std::uint32_t tensor) const {
  const CatalogTensor& t = catalog_.tensors()[tensor];
  std::vector<ZeroRun> holes;
  std::vector<ZeroRun> rows;
  for (const ZeroRun& run : measurements_[tensor].zero_runs) {
    const ZeroRunKind kind = KindOfZeroRun(t.name, t.dtype, t.shape, run);
    if (kind == ZeroRunKind::kHole) holes.push_back(run);
    if (kind == ZeroRunKind::kRows) rows.push_back(run);
  }
  const std::vector<ZeroRun>& runs = holes.empty() ? rows : holes;
  if (runs.empty()) return std::nullopt;
  std::uint64_t bytes = 0;
  for (const ZeroRun& run : runs) bytes += run.end - run.begin;
  const std::uint64_t bits = formats::DtypeBits(t.dtype);
  const ZeroRun& first = runs.front();
  std::string where = fmt::format("{} to {}", ElementPlace(t.shape, first.begin * 8 / bits),
                                  ElementPlace(t.shape, (first.end - 1) * 8 / bits));
  const bool is_derived =
      std::any_of(derived_.begin(), derived_.end(),
                  [&](const DerivedTensors& derived) { return derived.Holds(tensor); });
  if (!is_derived) {
    where += fmt::format(", bytes [{}, {}) of the file", t.extent.offset + first.begin,
                         t.extent.offset + first.end);
  }
  const std::string what =
      runs.size() == 1 ? fmt::format("{} in a row are zero, {}", formats::ExactBytes(bytes), where)
                       : fmt::format("{} runs of zeros with {} together, the first {}", runs.size(),
                                     formats::ExactBytes(bytes), where);
  if (holes.empty()) {
    return ZeroFinding{Severity::kWarning, "zero-rows",
                       fmt::format("{}; these are whole rows, which may be padding or may have "
                                   "been pruned: compare them with where they came from",
                                   what)};
  }
  // What is no weight by its name may mean anything.
  const bool is_weight = scales_.OfWeight(tensor) != nullptr ||
                         IsWeightMatrix(t.name, t.dtype, t.shape) ||
                         IsCodeMatrix(t.name, t.dtype, t.shape);
  const Severity severity = is_weight ? Severity::kError : Severity::kWarning;
  return ZeroFinding{severity, "zero-run",
                     fmt::format("{}; no trained weight matrix has so many; {}", what, kHole)};
}

std::string ZeroJudge::ZeroBlocksSay(std::uint32_t tensor) const {
  const ZeroBlockCount& zero = measurements_[tensor].zero_blocks;
  const formats::Shape& scales = catalog_.tensors()[scales_.OfWeight(tensor)->scale].shape;
  const std::string place = formats::NumElements(scales) == 1
                                ? ""
                                : fmt::format(" at {}", ElementPlace(scales, zero.first));
  return fmt::format("the scale{} is {:.4g}, which no tool writes for zeros", place,
                     double{zero.first_scale});
}

}  // namespace dsv3::convert

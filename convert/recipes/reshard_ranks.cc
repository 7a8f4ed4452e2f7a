#include "convert/recipes/reshard_ranks.h"

#include <cstddef>
#include <set>
#include <utility>

#include "formats/shape.h"

namespace dsv3::convert {
namespace {

// Each routed expert counts once in each rank that holds it, whatever it consists of.
void CountExperts(const SharedModel& shared, std::vector<RankReport>& reports) {
  std::set<std::pair<std::uint64_t, std::uint64_t>> counted;
  for (const SlicedTensor& sliced : shared.slicing.tensors) {
    const TensorPlace& place = sliced.place;
    if (place.kind != ModuleKind::kRoutedExpert || !place.expert || !place.layer) continue;
    if (!counted.emplace(*place.layer, *place.expert).second) continue;
    for (std::uint64_t part = 0; part < sliced.ways; ++part) {
      for (const std::uint32_t rank : RanksOf(sliced, part, shared.topology, shared.placement)) {
        ++reports[rank].experts;
      }
    }
  }
}

}  // namespace

std::vector<RankReport> RankReports(const SharedModel& shared,
                                    const std::vector<RankTensor>& tensors) {
  std::vector<RankReport> reports(shared.topology.world_size());
  for (std::uint64_t rank = 0; rank < reports.size(); ++rank) {
    reports[rank].rank = shared.topology.RankAt(rank);
  }
  for (const RankTensor& tensor : tensors) {
    const SlicedTensor& sliced = shared.slicing.tensors[tensor.parts.front().sliced];
    const auto kind = static_cast<std::size_t>(sliced.place.kind);
    const std::uint64_t bytes = tensor.expression->num_bytes();
    const bool is_scale = sliced.scale == sliced.tensor && sliced.scale != SlicedTensor::kNone;
    // The expression's size was counted when it was made.
    const std::uint64_t elements = *formats::NumElements(tensor.expression->shape());
    for (const std::uint32_t rank : tensor.ranks) {
      RankReport& report = reports[rank];
      report.bytes += bytes;
      report.bytes_by_kind[kind] += bytes;
      if (!is_scale) report.parameters += elements * sliced.values;
    }
  }
  CountExperts(shared, reports);
  return reports;
}

}  // namespace dsv3::convert

#include "convert/forward/module_differences.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "convert/forward/ranks.h"
#include "convert/forward/relation.h"

namespace dsv3::convert {
namespace {

using Record = WeightComparison::Record;

class Finder {
 public:
  explicit Finder(const WeightComparison& comparison) : comparison_(comparison) {}

  std::vector<ModuleDifference> Find() {
    for (const Record& record : comparison_.Records()) Add(record);
    return std::move(found_);
  }

 private:
  void Add(Record record) {
    const TensorRelation relation = record.difference.relation;
    if (relation != TensorRelation::kValues) return Finish(record);
    if (record.side.rank >= 0) {
      NameRank(record);
      return Finish(record);
    }
    const std::vector<std::uint32_t> ranks = RanksThatDiffer(record);
    if (ranks.empty()) return Finish(record);
    for (const std::uint32_t rank : ranks) {
      record.rank = rank;
      record.difference.rank = rank;
      Finish(record);
    }
  }

  // Of a rank whose copy differs from the one that is read: which of the two is wrong.
  void NameRank(Record& record) {
    const auto rank = static_cast<std::uint32_t>(record.side.rank);
    record.difference.rank = rank;
    if (!record.side.of_a) return;
    record.difference.of_copies = true;
    const ModelWeights& weights = comparison_.a().weights;
    const Ranks& ranks = *weights.ranks();
    if (!weights.IsRightOn(rank, record.rows.tensor)) return;
    const std::vector<Ranks::Slice> slices = ranks.SlicesOf(record.rows.tensor);
    const std::vector<Box> own = ranks.BoxesOf(rank, record.rows.tensor);
    for (const Ranks::Slice& slice : slices) {
      if (std::find(own.begin(), own.end(), slice.box) != own.end()) {
        record.difference.rank = slice.rank;
        break;
      }
    }
    std::swap(record.sums.a, record.sums.b);
    record.difference.nmse = record.sums.Nmse();
    record.turned = true;
  }

  void Finish(Record& record) {
    ModuleDifference& difference = record.difference;
    if (difference.relation == TensorRelation::kValues) {
      const auto key = std::tuple(difference.module, difference.tensor, difference.rank);
      if (!named_.insert(key).second) return;
      const FoundRelation found = FindRelation(comparison_, record);
      difference.relation = found.relation;
      difference.factor = found.factor;
    }
    if (!difference.tensor.empty()) {
      const ModelWeights& a = comparison_.a().weights;
      difference.file =
          a.ranks() && difference.rank && !(has_other_ranks() && !difference.of_copies)
              ? a.ranks()->FileOf(*difference.rank, record.rows.tensor)
              : a.FileOf(record.rows.tensor);
    }
    found_.push_back(difference);
  }

  // The ranks whose parts of the tensor differ; empty where there are no ranks, and where all
  // differ.
  std::vector<std::uint32_t> RanksThatDiffer(const Record& record) const {
    ModelWeights& a = comparison_.a().weights;
    const OtherWeights other = comparison_.Other(record.side);
    const bool of_other = other.weights.ranks() != nullptr;
    if (!of_other && !a.ranks()) return {};
    const Ranks& ranks = of_other ? *other.weights.ranks() : *a.ranks();
    std::mutex mutex;
    std::set<std::uint32_t> differing;
    std::set<std::uint32_t> first_ranks;
    std::size_t holders = 0;
    const std::uint64_t step = a.RowsOfPanel(record.rows);
    const std::uint64_t panels = (record.rows.rows + step - 1) / step;
    a.ForEach(static_cast<std::size_t>(panels), [&](std::size_t panel) {
      const std::uint64_t begin = panel * step;
      const std::uint64_t end = std::min(record.rows.rows, begin + step);
      const WeightRows rows = record.rows.Part(begin, end - begin);
      const auto count = static_cast<std::size_t>(rows.rows * rows.cols);
      std::vector<float> of_a(count);
      a.ReadPanel(rows, 0, rows.rows).CopyTo(of_a.data(), count);
      std::vector<float> of_b(count);
      ReadOther(comparison_, other, record, begin, end, of_a.data(), of_b.data());
      std::vector<OtherRows> runs = {{0, rows}};
      if (of_other) other.map.Find(rows, record.is_product, runs);
      for (const OtherRows& run : runs) {
        for (const Ranks::Slice& slice : ranks.SlicesOf(run.rows.tensor)) {
          const Box box = BoxIn(run.rows, slice.box);
          if (box.empty()) continue;
          const std::size_t first = static_cast<std::size_t>(run.begin * rows.cols);
          const bool differs = Differ(of_a.data() + first, of_b.data() + first, rows.cols, box);
          const std::lock_guard lock(mutex);
          first_ranks.insert(slice.rank);
          if (differs) differing.insert(slice.rank);
          holders = std::max(holders, ranks.HoldersOf(run.rows.tensor));
        }
      }
    });
    const bool copies_differ = !(of_other ? other.weights.DifferingRanks(TensorOf(record))
                                          : a.DifferingRanks(record.rows.tensor))
                                    .empty();
    if (differing == first_ranks && holders > 1 && !copies_differ) return {};
    return {differing.begin(), differing.end()};
  }

  bool has_other_ranks() const {
    return comparison_.has_other() && comparison_.b().weights.ranks() != nullptr;
  }

  // The first tensor of the other model that has the record's rows.
  std::uint32_t TensorOf(const Record& record) const {
    std::vector<OtherRows> runs;
    comparison_.Other(record.side).map.Find(record.rows, record.is_product, runs);
    return runs.empty() ? record.rows.tensor : runs.front().rows.tensor;
  }

  static bool Differ(const float* a, const float* b, std::uint64_t cols, const Box& box) {
    for (std::uint64_t row = box.row_begin; row < box.row_end; ++row) {
      for (std::uint64_t col = box.col_begin; col < box.col_end; ++col) {
        if (a[row * cols + col] != b[row * cols + col]) return true;
      }
    }
    return false;
  }

  const WeightComparison& comparison_;
  std::set<std::tuple<std::string, std::string, std::optional<std::uint32_t>>> named_;
  std::vector<ModuleDifference> found_;
};

}  // namespace

std::vector<ModuleDifference> FindModuleDifferences(const WeightComparison& comparison) {
  return Finder(comparison).Find();
}

}  // namespace dsv3::convert

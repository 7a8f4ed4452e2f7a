#include "convert/forward/relation.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace dsv3::convert {
namespace {

// A BF16 number is within 2^-8 of what was rounded; both sides may be, and a little for the factor.
constexpr double kTwoRoundings = 1.05 / 128;
// Of the squared error a factor must explain more than the rest, or it is only noise.
constexpr double kUnexplained = 0.25;

// A factor of fewer elements that differ says little.
constexpr std::uint64_t kFewElements = 16;

// Elements of a row that rows are recognised by at first.
constexpr std::size_t kRowBegin = 64;

// Sums over elements; of each row first, so that they do not depend on panels.
struct Fit {
  std::uint64_t elements = 0;
  double squares = 0;
  double products = 0;

  double Factor() const { return squares == 0 ? 0 : products / squares; }
};

struct RowFacts {
  std::uint64_t hash_a = 0;
  std::uint64_t hash_b = 0;
  bool only_zeroed = true;  // all elements that differ are 0 in B
  Fit all;
  Fit differing;
};

struct RowResiduals {
  bool fits = true;
  double error = 0;     // of (b − a)²
  double residual = 0;  // of (b − factor · a)²
};

std::uint64_t Hash(const float* values, std::size_t count) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (std::size_t i = 0; i < count; ++i) {
    // + 0 makes one zero of both.
    hash = (hash ^ std::bit_cast<std::uint32_t>(values[i] + 0.0F)) * 0x100000001B3;
    hash ^= hash >> 29U;
  }
  return hash;
}

class Relation {
 public:
  Relation(const WeightComparison& comparison, const WeightComparison::Record& record)
      : comparison_(comparison),
        record_(record),
        other_(comparison.Other(record.side)),
        rows_(record.rows),
        // Elements of a vector are its rows.
        width_(rows_.rows == 1 ? 1 : static_cast<std::size_t>(rows_.cols)),
        facts_(rows_.rows == 1 ? rows_.cols : rows_.rows) {}

  FoundRelation Find() {
    if (IsOther()) return {TensorRelation::kValues, {}};
    Visit([&](std::size_t row, const float* a, const float* b) { AddFacts(row, a, b); });
    if (IsPermuted()) return {TensorRelation::kRowsPermuted, {}};
    const bool zeroed = std::all_of(facts_.begin(), facts_.end(),
                                    [](const RowFacts& row) { return row.only_zeroed; });
    if (zeroed) return {TensorRelation::kZeroed, {}};
    Fit all;
    Fit differing;
    for (const RowFacts& row : facts_) {
      all.squares += row.all.squares;
      all.products += row.all.products;
      differing.elements += row.differing.elements;
      differing.squares += row.differing.squares;
      differing.products += row.differing.products;
    }
    if (Fits(all.Factor(), false)) return {TensorRelation::kScaled, all.Factor()};
    if (differing.elements >= kFewElements && Fits(differing.Factor(), true))
      return {TensorRelation::kScaled, differing.Factor()};
    return {TensorRelation::kValues, {}};
  }

 private:
  // Whether a look at few values shows that none of the other relations holds, as in most tensors
  // that differ: no factor fits the first panel, and its first row begins none of B's.
  bool IsOther() const {
    std::vector<float> a_values;
    std::vector<float> b_values;
    std::uint64_t first_row = 0;
    Visit(
        [&](std::size_t row, const float* a, const float* b) {
          if (row == 0) first_row = Hash(a, std::min(width_, kRowBegin));
          a_values.insert(a_values.end(), a, a + width_);
          b_values.insert(b_values.end(), b, b + width_);
        },
        Part::kFirstPanel);
    Fit all;
    Fit differing;
    bool only_zeroed = true;
    for (std::size_t i = 0; i < a_values.size(); ++i) {
      const double x = a_values[i];
      const double y = b_values[i];
      all.squares += x * x;
      all.products += x * y;
      if (x == y) continue;
      only_zeroed = only_zeroed && y == 0;
      ++differing.elements;
      differing.squares += x * x;
      differing.products += x * y;
    }
    if (only_zeroed) return false;
    // The factor of a panel is not quite that of the whole.
    const auto fits = [&](double factor, bool differing_only) {
      for (std::size_t i = 0; i < a_values.size(); ++i) {
        const double x = a_values[i];
        const double y = b_values[i];
        if (differing_only && x == y) continue;
        if (std::abs(y - factor * x) > 2.1 * kTwoRoundings * std::abs(factor * x)) return false;
      }
      return true;
    };
    if (fits(all.Factor(), false) || fits(differing.Factor(), true)) return false;
    std::atomic<bool> found = false;
    Visit(
        [&](std::size_t, const float*, const float* b) {
          if (Hash(b, std::min(width_, kRowBegin)) == first_row) found = true;
        },
        Part::kOther);
    return !found;
  }

  enum class Part {
    kWhole,
    kFirstPanel,
    kOther,  // B alone; `a` is nullptr
  };

  // Calls visit(row, a, b) on all threads.
  void Visit(const std::function<void(std::size_t, const float*, const float*)>& visit,
             Part part = Part::kWhole) const {
    ModelWeights& a = comparison_.a().weights;
    const std::uint64_t step = a.RowsOfPanel(rows_);
    const std::uint64_t panels = part == Part::kFirstPanel ? 1 : (rows_.rows + step - 1) / step;
    a.ForEach(static_cast<std::size_t>(panels), [&](std::size_t panel) {
      const std::uint64_t begin = panel * step;
      const std::uint64_t end = std::min(rows_.rows, begin + step);
      const auto count = static_cast<std::size_t>((end - begin) * rows_.cols);
      const bool needs_a = part != Part::kOther || record_.rank || record_.side.rank >= 0;
      std::vector<float> of_a(needs_a ? count : 0);
      if (needs_a) a.ReadPanel(rows_, begin, end).CopyTo(of_a.data(), count);
      std::vector<float> of_b(count);
      ReadOther(comparison_, other_, record_, begin, end, of_a.data(), of_b.data());
      for (std::size_t i = 0; i < count; i += width_) {
        const float* x = needs_a ? of_a.data() + i : nullptr;
        const float* y = of_b.data() + i;
        if (record_.turned) std::swap(x, y);
        visit(static_cast<std::size_t>(begin) + i / width_, x, y);
      }
    });
  }

  void AddFacts(std::size_t row, const float* a, const float* b) {
    RowFacts& facts = facts_[row];
    facts.hash_a = Hash(a, width_);
    facts.hash_b = Hash(b, width_);
    for (std::size_t i = 0; i < width_; ++i) {
      const double x = a[i];
      const double y = b[i];
      facts.all.squares += x * x;
      facts.all.products += x * y;
      if (x == y) continue;
      facts.only_zeroed = facts.only_zeroed && y == 0;
      ++facts.differing.elements;
      facts.differing.squares += x * x;
      facts.differing.products += x * y;
    }
  }

  bool IsPermuted() const {
    std::vector<std::uint64_t> of_a;
    std::vector<std::uint64_t> of_b;
    for (const RowFacts& row : facts_) {
      of_a.push_back(row.hash_a);
      of_b.push_back(row.hash_b);
    }
    std::sort(of_a.begin(), of_a.end());
    std::sort(of_b.begin(), of_b.end());
    return of_a == of_b;
  }

  // Whether b is factor · a, in the elements that differ where only these are asked for.
  bool Fits(double factor, bool differing_only) const {
    if (factor == 0 || !std::isfinite(factor)) return false;
    std::vector<RowResiduals> residuals(facts_.size());
    Visit([&](std::size_t row, const float* a, const float* b) {
      RowResiduals& found = residuals[row];
      for (std::size_t i = 0; i < width_; ++i) {
        const double x = a[i];
        const double y = b[i];
        if (differing_only && x == y) continue;
        const double residual = y - factor * x;
        if (std::abs(residual) > kTwoRoundings * std::abs(factor * x)) found.fits = false;
        found.error += (y - x) * (y - x);
        found.residual += residual * residual;
      }
    });
    RowResiduals all;
    for (const RowResiduals& row : residuals) {
      all.fits = all.fits && row.fits;
      all.error += row.error;
      all.residual += row.residual;
    }
    return all.fits && all.residual <= kUnexplained * all.error;
  }

  const WeightComparison& comparison_;
  const WeightComparison::Record& record_;
  const OtherWeights other_;
  const WeightRows rows_;
  const std::size_t width_;
  std::vector<RowFacts> facts_;
};

}  // namespace

void ReadOther(const WeightComparison& comparison, const OtherWeights& other,
               const WeightComparison::Record& record, std::uint64_t begin, std::uint64_t end,
               const float* of_a, float* of_b) {
  const WeightRows rows = record.rows.Part(begin, end - begin);
  const Ranks* const ranks = other.weights.ranks().get();
  std::vector<OtherRows> runs;
  other.map.Find(rows, record.is_product, runs);
  for (const OtherRows& run : runs) {
    const std::uint64_t first = run.begin * rows.cols;
    float* const values = of_b + first;
    other.weights.ReadPanel(run.rows, 0, run.rows.rows)
        .CopyTo(values, static_cast<std::size_t>(run.rows.rows * rows.cols));
    const WeightPanel mine{nullptr, of_a == nullptr ? nullptr : of_a + first};
    other.KeepOwn(run.rows, mine, values);
    if (record.rank && ranks != nullptr) KeepBoxesOf(*ranks, *record.rank, run.rows, mine, values);
  }
  if (record.rank && ranks == nullptr) {
    KeepBoxesOf(*comparison.a().weights.ranks(), *record.rank, rows, {nullptr, of_a}, of_b);
  }
}

FoundRelation FindRelation(const WeightComparison& comparison,
                           const WeightComparison::Record& record) {
  return Relation(comparison, record).Find();
}

}  // namespace dsv3::convert

#include "convert/forward/relation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "convert/forward/scaled_elements.h"
#include "formats/dtype.h"

namespace dsv3::convert {
namespace {

// A factor of some elements is further from 1 than this: nearer ones change a BF16 number by less
// than its last place, as another way of rounding does.
constexpr double kLastPlace = 1.0 / 128;

// A factor of fewer elements that differ says little.
constexpr std::uint64_t kFewElements = 16;

// Elements that are looked at first.
constexpr std::uint64_t kFirstLook = std::uint64_t{1} << 14;

struct RowFacts {
  std::uint64_t hash_a = 0;
  std::uint64_t hash_b = 0;
  bool only_zeroed = true;  // all elements that differ are 0 in B
  Fit all;
  Fit differing;
};

// What rounding to a dtype may change.
struct Rounding {
  int bits = 24;            // of the significand
  int min_exponent = -126;  // of a number that has all of them

  // Half a unit in the last place of a number.
  double At(double value) const {
    const int exponent = value == 0 ? min_exponent : std::max(std::ilogb(value), min_exponent);
    return std::ldexp(1.0, exponent - bits);
  }
};

// Of code × scale that of floats.
Rounding RoundingOf(const ModelWeights& weights, const WeightRows& rows) {
  if (weights.IsFp8(rows)) return {};
  switch (weights.catalog().tensors()[rows.tensor].dtype) {
    case formats::Dtype::kBF16:
      return {8, -126};
    case formats::Dtype::kF16:
      return {11, -14};
    default:
      return {};
  }
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
    if (const auto factor = RoundedFactor()) return {TensorRelation::kScaled, factor};
    if (Fits(all.Factor(), false)) return {TensorRelation::kScaled, all.Factor()};
    if (differing.elements >= kFewElements && IsOfSome(differing.Factor()) &&
        Fits(differing.Factor(), true)) {
      return {TensorRelation::kScaled, differing.Factor()};
    }
    return {TensorRelation::kValues, {}};
  }

 private:
  // Whether a look at few values shows that none of the other relations holds, as in most tensors
  // that differ: no factor fits the first rows, and all rows together do not begin as B's.
  bool IsOther() const {
    // Of one rank the beginnings are not known alone.
    if (record_.rank || record_.begins.rows < rows_.rows || record_.begins.a == record_.begins.b) {
      return false;
    }
    std::vector<float> a_values;
    std::vector<float> b_values;
    Visit(
        [&](std::size_t, const float* a, const float* b) {
          a_values.insert(a_values.end(), a, a + width_);
          b_values.insert(b_values.end(), b, b + width_);
        },
        Part::kBeginning);
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
    // The factor of some rows is not quite that of the whole.
    const auto fits = [&](double factor, bool differing_only) {
      for (std::size_t i = 0; i < a_values.size(); ++i) {
        const double x = a_values[i];
        const double y = b_values[i];
        if (differing_only && x == y) continue;
        if (std::abs(y - factor * x) > 2.1 * kTwoRoundings * std::abs(factor * x)) return false;
      }
      return true;
    };
    return !fits(all.Factor(), false) && !fits(differing.Factor(), true);
  }

  enum class Part {
    kWhole,
    kBeginning,
  };

  static bool IsOfSome(double factor) { return std::abs(factor - 1) > kLastPlace; }

  // The factor with which B's elements, or those that differ, are A's times it, rounded once to
  // the dtype of B's tensor, or where that is finer, to that of A's.
  std::optional<double> RoundedFactor() const {
    std::vector<OtherRows> runs;
    other_.map.Find(rows_.Part(0, 1), record_.is_product, runs);
    Rounding of_a = RoundingOf(comparison_.a().weights, rows_);
    Rounding of_b = RoundingOf(other_.weights, runs.front().rows);
    if (record_.turned) std::swap(of_a, of_b);
    if (const auto factor = FactorWithin(of_b)) return factor;
    return of_a.bits < of_b.bits ? FactorWithin(of_a) : std::nullopt;
  }

  std::optional<double> FactorWithin(Rounding rounding) const {
    // Codes times scales are floats, too, and so may be the product that was rounded.
    constexpr double kOfFloats = 0x1p-23;
    std::vector<RowFactors> of_row(facts_.size());
    Visit(
        [&](std::size_t row, const float* a, const float* b) {
          for (std::size_t i = 0; i < width_; ++i) {
            const double x = a[i];
            const double y = b[i];
            if (x == 0 && y == 0) continue;
            const double slack = rounding.At(y) + kOfFloats * std::abs(y);
            const bool is_same = std::abs(y - x) <= slack;
            const double one = (y - slack) / x;
            const double two = (y + slack) / x;
            of_row[row].all.Add(x, y, std::min(one, two), std::max(one, two));
            if (!is_same) of_row[row].differing.Add(x, y, std::min(one, two), std::max(one, two));
          }
        },
        Part::kWhole, WeightValues::kExact);
    RowFactors whole;
    for (const RowFactors& row : of_row) {
      whole.all.Add(row.all);
      whole.differing.Add(row.differing);
    }
    // Where nothing differs B's tensor is A's, rounded.
    if (whole.differing.fit.elements == 0) return std::nullopt;
    if (const auto factor = whole.all.Best()) return factor;
    const auto factor = whole.differing.Best();
    const bool is_of_some =
        factor && IsOfSome(*factor) && whole.differing.fit.elements >= kFewElements;
    return is_of_some ? factor : std::nullopt;
  }

  // Calls visit(row, a, b) on all threads. `values` are those of FP8 weights; the run's without.
  void Visit(const std::function<void(std::size_t, const float*, const float*)>& visit,
             Part part = Part::kWhole, std::optional<WeightValues> values = {}) const {
    ModelWeights& a = comparison_.a().weights;
    const WeightValues of_fp8 = values.value_or(a.values());
    const bool is_look = part == Part::kBeginning;
    const std::uint64_t step =
        is_look ? std::max<std::uint64_t>(1, kFirstLook / rows_.cols) : a.RowsOfPanel(rows_);
    const std::uint64_t panels = is_look ? 1 : (rows_.rows + step - 1) / step;
    a.ForEach(static_cast<std::size_t>(panels), [&](std::size_t panel) {
      const std::uint64_t begin = panel * step;
      const std::uint64_t end = std::min(rows_.rows, begin + step);
      const auto count = static_cast<std::size_t>((end - begin) * rows_.cols);
      std::vector<float> of_a(count);
      a.ReadPanel(rows_, begin, end, of_fp8).CopyTo(of_a.data(), count);
      std::vector<float> of_b(count);
      ReadOther(comparison_, other_, record_, begin, end, of_a.data(), of_b.data(), of_fp8);
      for (std::size_t i = 0; i < count; i += width_) {
        const float* x = of_a.data() + i;
        const float* y = of_b.data() + i;
        if (record_.turned) std::swap(x, y);
        visit(static_cast<std::size_t>(begin) + i / width_, x, y);
      }
    });
  }

  void AddFacts(std::size_t row, const float* a, const float* b) {
    RowFacts& facts = facts_[row];
    facts.hash_a = HashOf({nullptr, a}, width_);
    facts.hash_b = HashOf({nullptr, b}, width_);
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
    std::vector<Residuals> of_row(facts_.size());
    Visit([&](std::size_t row, const float* a, const float* b) {
      for (std::size_t i = 0; i < width_; ++i) {
        if (!differing_only || a[i] != b[i]) of_row[row].Add(a[i], b[i], factor);
      }
    });
    Residuals whole;
    for (const Residuals& row : of_row) whole.Add(row);
    return whole.fits &&
           (whole.ExplainMost() || (!differing_only && whole.ExplainMoreThanRounding()));
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
               const float* of_a, float* of_b, std::optional<WeightValues> of_fp8) {
  const WeightRows rows = record.rows.Part(begin, end - begin);
  const Ranks* const ranks = other.weights.ranks().get();
  std::vector<OtherRows> runs;
  other.map.Find(rows, record.is_product, runs);
  for (const OtherRows& run : runs) {
    const std::uint64_t first = run.begin * rows.cols;
    float* const values = of_b + first;
    other.weights.ReadPanel(run.rows, 0, run.rows.rows, of_fp8.value_or(other.weights.values()))
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

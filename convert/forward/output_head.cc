#include "convert/forward/output_head.h"

#include <algorithm>
#include <cmath>

#include "quant/exponentials.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kSlabBytes = std::uint64_t{16} << 20;
constexpr std::uint64_t kMinSlabColumns = 128;

}  // namespace

void ComputeLogits(Modules& modules, const WeightRows& head, const Rows& in,
                   const LogitVisitor& visit, HeadOfRanks& of_ranks) {
  if (in.count() == 0) return;
  std::vector<float> scratch;
  const float* const input = modules.InputOf(head, in.values.data(), in.count(), in.width, scratch);
  const std::uint64_t columns =
      std::max(kMinSlabColumns, kSlabBytes / (sizeof(float) * in.count()));
  for (std::uint64_t first = 0; first < head.rows; first += columns) {
    WeightRows slab = head;
    slab.first_row += first;
    slab.rows = std::min(columns, head.rows - first);
    Rows logits(in.count(), static_cast<std::size_t>(slab.rows));
    modules.weights().Multiply(Product{slab, input, in.width, in.count(), logits.values.data(),
                                       logits.width, nullptr, in.values.data()});
    modules.Round(logits.values);
    of_ranks.Correct(head, first, in, logits);
    visit(first, logits);
  }
}

double LogitSummary::AddToSum(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double factor = 1;
  if (largest > largest_) {
    factor = std::exp(largest_ - largest);
    sum_ *= factor;
    largest_ = largest;
  }
  sum_ += quant::SumOfExponentials(logits, largest_);
  return factor;
}

double LogitSummary::Add(std::uint64_t first, std::span<const float> logits) {
  const double factor = sums_ ? AddToSum(logits) : 1;
  if (target_ && *target_ >= first && *target_ - first < logits.size()) {
    target_logit_ = logits[*target_ - first];
  }
  for (std::size_t i = 0; top_ > 0 && i < logits.size(); ++i) {
    if (best_.size() == top_ && logits[i] <= best_.back().logit) continue;
    const auto place =
        std::upper_bound(best_.begin(), best_.end(), logits[i],
                         [](float logit, const Best& other) { return logit > other.logit; });
    best_.insert(place, {static_cast<std::uint32_t>(first + i), logits[i]});
    if (best_.size() > top_) best_.pop_back();
  }
  return factor;
}

double LogitSummary::LogSumExp() const { return largest_ + std::log(sum_); }

double LogitSummary::TargetLoss() const { return LogSumExp() - target_logit_; }

}  // namespace dsv3::convert

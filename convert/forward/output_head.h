#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "convert/forward/head_of_ranks.h"
#include "convert/forward/modules.h"

// Logits, a slab of the vocabulary at a time; an internal part of forward.h.
namespace dsv3::convert {

// Logits of a slab: `logits` has a row for each token, whose columns are tokens of the vocabulary
// from `first` on. Slabs come in their order.
using LogitVisitor = std::function<void(std::uint64_t first, Rows& logits)>;

// `in`: the stream behind the final norm. A slab takes some megabytes, whatever the vocabulary.
// `of_ranks` made `in`.
void ComputeLogits(Modules& modules, const WeightRows& head, const Rows& in,
                   const LogitVisitor& visit, HeadOfRanks& of_ranks);

// What is kept of the logits of one row.
class LogitSummary {
 public:
  struct Best {
    std::uint32_t token = 0;
    float logit = 0;
  };

  // Keeps the `top` best tokens; `target` is the token whose probability is asked for. `sums`:
  // whether sum() and what follows from it are needed.
  explicit LogitSummary(std::size_t top, std::optional<std::uint32_t> target = std::nullopt,
                        bool sums = true)
      : top_(top), target_(target), sums_(sums) {}

  // The logits of tokens from `first` on; in order. Returns what sums of exp(logit − largest())
  // that were made before must be multiplied by: 1 where the largest is as before.
  double Add(std::uint64_t first, std::span<const float> logits);

  const std::vector<Best>& best() const { return best_; }  // of equal ones the lower token first
  double largest() const { return largest_; }
  double sum() const { return sum_; }  // Σ exp(logit − largest())
  // log Σ exp(logit).
  double LogSumExp() const;
  // −log p of the target.
  double TargetLoss() const;

 private:
  double AddToSum(std::span<const float> logits);

  std::size_t top_;
  std::optional<std::uint32_t> target_;
  bool sums_;
  std::vector<Best> best_;
  double largest_ = -std::numeric_limits<double>::infinity();
  double sum_ = 0;
  double target_logit_ = 0;
};

}  // namespace dsv3::convert

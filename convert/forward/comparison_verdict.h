#pragma once

#include <optional>
#include <vector>

#include "convert/forward/difference.h"
#include "convert/forward/dump_comparison.h"
#include "convert/forward/forward_comparison.h"
#include "formats/finding.h"

// Whether a forward pass of another model or program is near enough. Pure functions.
namespace dsv3::convert {

// Bounds that alone decide where there is one; without one nothing may differ.
struct ForwardLimits {
  std::optional<double> max_nmse = {};    // of the logits
  bool max_nmse_is_bf16 = false;          // the bound is ForwardComparisonReport::bf16_nmse
  std::optional<double> max_kl = {};      // the mean
  std::optional<double> min_cosine = {};  // of the row of logits where it is smallest
  std::optional<double> min_top1 = {};    // share of the rows

  bool any() const { return max_nmse || max_nmse_is_bf16 || max_kl || min_cosine || min_top1; }
};

// Outputs that differ by more count as different, without limits.
inline constexpr double kSameNmse = 1e-10;

// A finding rank-difference for each rank that has another copy of a tensor, an error.
formats::Findings JudgeCopies(const std::vector<ModuleDifference>& differences);

// A finding forward-difference for each difference, an error without limits and a warning with
// them, and a finding forward-limit for each limit that does not hold.
formats::Findings JudgeComparison(const ForwardComparisonReport& report,
                                  const ForwardLimits& limits);

// A finding forward-difference, an error, for the first module that differs from the dump by more
// than `max_nmse`; none where every module agrees.
formats::Findings JudgeDump(const DumpReport& report, double max_nmse);

}  // namespace dsv3::convert

#include "convert/forward/comparison_verdict.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace dsv3::convert {
namespace {

using formats::Findings;
using formats::Severity;

// What differs: a rank's copy from that of the other ranks, or OTHER's tensor from MODEL's.
std::string RelationText(const ModuleDifference& difference) {
  std::string other = "OTHER's tensor";
  std::string mine = "MODEL's";
  if (difference.rank) {
    other = difference.of_copies ? fmt::format("rank {}'s copy", *difference.rank)
                                 : fmt::format("on rank {} OTHER's tensor", *difference.rank);
  }
  if (difference.of_copies) mine = "the other ranks'";
  switch (difference.relation) {
    case TensorRelation::kScaled:
      return fmt::format("{} is {} times {:.7g}", other, mine, difference.factor.value_or(1));
    case TensorRelation::kRowsPermuted:
      return fmt::format("{} has {} rows in another order", other, mine);
    case TensorRelation::kZeroed:
      return fmt::format("{} is 0 where it differs", other);
    case TensorRelation::kValues:
      return fmt::format("{} has other values", other);
    case TensorRelation::kShape:
      return fmt::format("{} has another shape", other);
    case TensorRelation::kConfig:
      if (difference.config == std::vector<std::string>{kFormField}) {
        return "the weight is FP8 in one model alone, and so its inputs are quantised there alone";
      }
      return fmt::format("config.json of MODEL and OTHER differ in {}",
                         fmt::join(difference.config, ", "));
  }
  return "";
}

std::string DifferenceText(const ModuleDifference& difference) {
  // The tensor is named beside the text.
  const bool is_named = difference.tensor.find(difference.module + ".") != std::string::npos;
  std::string text = is_named ? "" : difference.module + ": ";
  text += RelationText(difference);
  if (difference.nmse) {
    text += fmt::format("; on {} input the outputs differ by NMSE {:.3g}, cosine {:.6f}",
                        difference.of_copies ? "one" : "MODEL's", *difference.nmse,
                        difference.cosine.value_or(0));
  }
  return text;
}

Findings FindingsOf(const std::vector<ModuleDifference>& differences, Severity severity) {
  Findings findings;
  for (const ModuleDifference& difference : differences) {
    findings.push_back({severity, difference.of_copies ? "rank-difference" : "forward-difference",
                        difference.file, difference.tensor, DifferenceText(difference)});
  }
  return findings;
}

void AddLimit(Findings& findings, bool holds, std::string message) {
  if (holds) return;
  findings.push_back({Severity::kError, "forward-limit", "", "", std::move(message)});
}

}  // namespace

Findings JudgeCopies(const std::vector<ModuleDifference>& differences) {
  return FindingsOf(differences, Severity::kError);
}

Findings JudgeComparison(const ForwardComparisonReport& report, const ForwardLimits& limits) {
  const Severity severity = limits.any() ? Severity::kWarning : Severity::kError;
  Findings findings = FindingsOf(report.differences, severity);
  const bool same_tokens = !report.generated || !report.generated->first;
  if (!same_tokens) {
    const GeneratedDifference& first = *report.generated->first;
    findings.push_back(
        {severity, "forward-difference", "", "",
         fmt::format("generated token {} of sequence {} is {} of MODEL and {} of "
                     "OTHER",
                     first.position + 1, first.sequence + 1, first.token, first.other_token)});
  }
  const LogitFigures& logits = report.logits;
  if (!limits.any()) {
    double worst = std::max(logits.nmse, report.mtp_logits ? report.mtp_logits->nmse : 0.0);
    for (const ForwardComparisonReport::Layer& layer : report.layers) {
      worst = std::max(worst, layer.nmse);
    }
    if (findings.empty() && worst > kSameNmse) {
      findings.push_back({severity, "forward-difference", "", "",
                          fmt::format("the outputs differ by NMSE {:.3g}, and no weight and no "
                                      "field of config.json does; the models quantise other inputs",
                                      worst)});
    }
    return findings;
  }
  const std::optional<double> max_nmse =
      limits.max_nmse_is_bf16 ? report.bf16_nmse : limits.max_nmse;
  if (max_nmse) {
    AddLimit(findings, logits.nmse <= *max_nmse,
             fmt::format("the NMSE of the logits is {:.3g}, above --max-nmse {}{:.3g}", logits.nmse,
                         limits.max_nmse_is_bf16 ? "bf16, which is " : "", *max_nmse));
  }
  if (limits.max_kl) {
    AddLimit(findings, logits.kl_mean <= *limits.max_kl,
             fmt::format("the mean KL divergence is {:.3g} nats, above --max-kl {:.3g}",
                         logits.kl_mean, *limits.max_kl));
  }
  if (limits.min_cosine) {
    AddLimit(findings, logits.cosine >= *limits.min_cosine,
             fmt::format("the smallest cosine of a row of logits is {:.9f}, below --min-cosine {}",
                         logits.cosine, *limits.min_cosine));
  }
  if (limits.min_top1) {
    AddLimit(findings, logits.top1_agreement >= *limits.min_top1,
             fmt::format("the best token is the same in {:.6f} of the rows, below --min-top1 {}",
                         logits.top1_agreement, *limits.min_top1));
  }
  return findings;
}

Findings JudgeDump(const DumpReport& report, double max_nmse) {
  const auto differs = [&](const DumpedModule& module) { return module.nmse > max_nmse; };
  const auto first = std::find_if(report.modules.begin(), report.modules.end(), differs);
  if (first == report.modules.end()) return {};
  const auto behind = report.modules.end() - first - 1;
  const auto more = std::count_if(first + 1, report.modules.end(), differs);
  std::string message = fmt::format(
      "{} is the first module whose output differs from {}: NMSE {:.3g} is above {:.3g}, cosine "
      "{:.6f}, largest difference {:.3g}",
      first->module, report.file, first->nmse, max_nmse, first->cosine, first->max_abs);
  if (behind > 0) message += fmt::format("; of the {} behind it {} differ", behind, more);
  return {{Severity::kError, "forward-difference", "", "", std::move(message)}};
}

}  // namespace dsv3::convert

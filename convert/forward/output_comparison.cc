#include "convert/forward/output_comparison.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "quant/exponentials.h"

namespace dsv3::convert {
namespace {

double Margin(const LogitSummary& summary) {
  const std::vector<LogitSummary::Best>& best = summary.best();
  return best.size() < 2 ? 0 : static_cast<double>(best[0].logit) - best[1].logit;
}

}  // namespace

GeneratedComparison CompareGenerated(const std::vector<std::vector<std::uint32_t>>& tokens,
                                     std::vector<std::vector<std::uint32_t>> other) {
  GeneratedComparison result;
  double all = 0;
  double differing = 0;
  for (std::size_t s = 0; s < tokens.size(); ++s) {
    for (std::size_t i = 0; i < tokens[s].size(); ++i) {
      ++all;
      if (tokens[s][i] == other[s][i]) continue;
      ++differing;
      if (!result.first || i < result.first->position) {
        result.first = {s, i, tokens[s][i], other[s][i]};
      }
    }
  }
  if (all > 0) result.agreement = (all - differing) / all;
  result.tokens = std::move(other);
  return result;
}

OutputComparison::OutputComparison(const std::vector<std::vector<std::uint32_t>>& sequences)
    : one_sequence_(sequences.size() == 1) {
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t i = 0; i < sequences[s].size(); ++i) {
      const bool is_last = i + 1 == sequences[s].size();
      rows_.emplace_back(s, i, is_last ? std::nullopt : std::optional(sequences[s][i + 1]));
    }
  }
}

void OutputComparison::Add(ModelWeights& weights, std::uint64_t first, const Rows& a, const Rows& b,
                           std::vector<LogitSummary>& summaries) {
  weights.ForEach(rows_.size(), [&](std::size_t i) {
    Row& row = rows_[i];
    std::vector<double> exponentials(a.width);
    const std::span<const float> of_a(a.row(i), a.width);
    const std::span<const float> of_b(b.row(i), b.width);
    row.cross *= summaries[i].Add(first, of_a);
    row.b.Add(first, of_b);
    quant::Exponentials(of_a, summaries[i].largest(), exponentials.data());
    for (std::size_t k = 0; k < a.width; ++k) {
      const double difference = static_cast<double>(of_a[k]) - of_b[k];
      row.sums.Add(of_a[k], of_b[k]);
      row.max_abs = std::max(row.max_abs, std::abs(difference));
      row.cross += exponentials[k] * difference;
    }
  });
}

// Σ p (log p − log q) with log p = a − LogSumExp(a).
double OutputComparison::Row::Kl(const LogitSummary& a) const {
  return std::max(0.0, cross / a.sum() - a.LogSumExp() + b.LogSumExp());
}

LogitFigures OutputComparison::Figures(const std::vector<LogitSummary>& of_a) const {
  LogitFigures figures;
  ErrorSums all;
  double agreeing = 0;
  double loss = 0;
  double other_loss = 0;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    all.Add(row.sums);
    figures.cosine = std::min(figures.cosine, row.sums.Cosine());
    figures.max_abs = std::max(figures.max_abs, row.max_abs);
    const double kl = row.Kl(of_a[i]);
    figures.kl_mean += kl;
    figures.kl_max = std::max(figures.kl_max, kl);
    if (of_a[i].best().front().token == row.b.best().front().token) ++agreeing;
    if (i + 1 == rows_.size()) continue;
    loss += of_a[i].TargetLoss();
    other_loss += row.b.TargetLoss();
  }
  const auto count = static_cast<double>(rows_.size());
  figures.nmse = all.Nmse();
  figures.kl_mean /= count;
  figures.top1_agreement = agreeing / count;
  if (one_sequence_ && rows_.size() > 1) {
    figures.perplexity = std::exp(loss / (count - 1));
    figures.other_perplexity = std::exp(other_loss / (count - 1));
  }
  return figures;
}

std::vector<Top1Difference> OutputComparison::Top1Differences(
    const std::vector<LogitSummary>& of_a) const {
  std::vector<Top1Difference> found;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    const std::uint32_t token = of_a[i].best().front().token;
    const std::uint32_t other = row.b.best().front().token;
    if (token == other) continue;
    found.push_back({row.sequence, row.position, token, other, Margin(of_a[i]), Margin(row.b)});
  }
  return found;
}

}  // namespace dsv3::convert

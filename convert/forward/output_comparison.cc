#include "convert/forward/output_comparison.h"

#include <algorithm>
#include <cmath>

#include "quant/exponentials.h"

namespace dsv3::convert {
namespace {

double Margin(const LogitSummary& summary) {
  const std::vector<LogitSummary::Best>& best = summary.best();
  return best.size() < 2 ? 0 : static_cast<double>(best[0].logit) - best[1].logit;
}

}  // namespace

OutputComparison::OutputComparison(const std::vector<std::vector<std::uint32_t>>& sequences)
    : one_sequence_(sequences.size() == 1) {
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t i = 0; i < sequences[s].size(); ++i) {
      const bool is_last = i + 1 == sequences[s].size();
      rows_.emplace_back(s, i, is_last ? std::nullopt : std::optional(sequences[s][i + 1]));
    }
  }
}

void OutputComparison::Add(ModelWeights& weights, std::uint64_t first, const Rows& a,
                           const Rows& b) {
  weights.ForEach(rows_.size(), [&](std::size_t i) {
    Row& row = rows_[i];
    std::vector<double> exponentials(a.width);
    const std::span<const float> of_a(a.row(i), a.width);
    const std::span<const float> of_b(b.row(i), b.width);
    row.cross *= row.a.Add(first, of_a);
    row.b.Add(first, of_b);
    quant::Exponentials(of_a, row.a.largest(), exponentials.data());
    for (std::size_t k = 0; k < a.width; ++k) {
      const double difference = static_cast<double>(of_a[k]) - of_b[k];
      row.sums.Add(of_a[k], of_b[k]);
      row.max_abs = std::max(row.max_abs, std::abs(difference));
      row.cross += exponentials[k] * difference;
    }
  });
}

// Σ p (log p − log q) with log p = a − LogSumExp(a).
double OutputComparison::Row::Kl() const {
  return std::max(0.0, cross / a.sum() - a.LogSumExp() + b.LogSumExp());
}

LogitFigures OutputComparison::Figures() const {
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
    const double kl = row.Kl();
    figures.kl_mean += kl;
    figures.kl_max = std::max(figures.kl_max, kl);
    if (row.a.best().front().token == row.b.best().front().token) ++agreeing;
    if (i + 1 == rows_.size()) continue;
    loss += row.a.TargetLoss();
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

std::vector<Top1Difference> OutputComparison::Top1Differences() const {
  std::vector<Top1Difference> found;
  for (const Row& row : rows_) {
    const std::uint32_t token = row.a.best().front().token;
    const std::uint32_t other = row.b.best().front().token;
    if (token == other) continue;
    found.push_back({row.sequence, row.position, token, other, Margin(row.a), Margin(row.b)});
  }
  return found;
}

}  // namespace dsv3::convert

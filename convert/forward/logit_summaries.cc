#include "convert/forward/logit_summaries.h"

#include <algorithm>
#include <cmath>

#include "convert/forward/output_comparison.h"

namespace dsv3::convert {
namespace {

using Tokens = std::vector<std::uint32_t>;

}  // namespace

std::vector<LogitSummary> SummariesOf(const std::vector<Tokens>& sequences, std::size_t top,
                                      bool compared) {
  const std::size_t each = compared ? OutputComparison::kBest : 0;
  const std::size_t last = std::max<std::size_t>({each, top, 1});
  std::vector<LogitSummary> summaries;
  for (const Tokens& tokens : sequences) {
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      // Of several sequences nobody asks for the perplexity.
      const bool sums = compared || sequences.size() == 1;
      summaries.emplace_back(each, tokens[i + 1], sums);
    }
    summaries.emplace_back(last, std::nullopt, compared);
  }
  return summaries;
}

std::vector<const LogitSummary*> LastOf(const std::vector<Tokens>& sequences,
                                        const std::vector<LogitSummary>& summaries) {
  std::vector<const LogitSummary*> last;
  std::size_t end = 0;
  for (const Tokens& tokens : sequences) {
    end += tokens.size();
    last.push_back(&summaries[end - 1]);
  }
  return last;
}

std::optional<double> PerplexityOf(const std::vector<LogitSummary>& summaries) {
  if (summaries.size() < 2) return std::nullopt;
  double loss = 0;
  for (std::size_t i = 0; i + 1 < summaries.size(); ++i) loss += summaries[i].TargetLoss();
  return std::exp(loss / static_cast<double>(summaries.size() - 1));
}

std::vector<std::vector<NextToken>> TopOf(const std::vector<const LogitSummary*>& last,
                                          std::size_t top) {
  std::vector<std::vector<NextToken>> best;
  for (const LogitSummary* const summary : last) {
    best.emplace_back();
    for (const LogitSummary::Best& token : summary->best()) {
      if (best.back().size() == top) break;
      best.back().push_back({token.token, token.logit});
    }
  }
  return best;
}

}  // namespace dsv3::convert

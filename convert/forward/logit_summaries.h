#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "convert/forward/forward.h"
#include "convert/forward/output_head.h"

// What a run keeps of the logits of its sequences, and what they say. An internal part of
// forward.h.
namespace dsv3::convert {

// One for each token of the sequences, which predicts the one behind it. That of a sequence's last
// token keeps the `top` best next tokens, or more; `compared`: all keep what OutputComparison
// needs.
std::vector<LogitSummary> SummariesOf(const std::vector<std::vector<std::uint32_t>>& sequences,
                                      std::size_t top, bool compared);

// Those of the last tokens.
std::vector<const LogitSummary*> LastOf(const std::vector<std::vector<std::uint32_t>>& sequences,
                                        const std::vector<LogitSummary>& summaries);

// As ForwardReport has it, of the summaries of one sequence; nothing for a single token.
std::optional<double> PerplexityOf(const std::vector<LogitSummary>& summaries);

// The `top` best next tokens of each, the best first.
std::vector<std::vector<NextToken>> TopOf(const std::vector<const LogitSummary*>& last,
                                          std::size_t top);

}  // namespace dsv3::convert

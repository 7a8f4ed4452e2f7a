#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "convert/forward/difference.h"
#include "convert/forward/modules.h"
#include "convert/forward/output_head.h"

// How far the logits of one model are from those of another; an internal part of forward.h.
namespace dsv3::convert {

struct LogitFigures {
  double nmse = 0;            // Σ(a − b)² / Σa²
  double cosine = 1;          // of the row where it is smallest
  double max_abs = 0;         // of a − b
  double kl_mean = 0;         // nats, from A to B
  double kl_max = 0;          //
  double top1_agreement = 1;  // share of the rows with one best token
  // Of one sequence of two tokens or more.
  std::optional<double> perplexity;
  std::optional<double> other_perplexity;
};

// A row whose best token is another. Margins: the best logit of a model less its second.
struct Top1Difference {
  std::uint64_t sequence = 0;
  std::uint64_t position = 0;
  std::uint32_t token = 0;
  std::uint32_t other_token = 0;
  double margin = 0;
  double other_margin = 0;
};

// A token that one model generated and the other did not.
struct GeneratedDifference {
  std::uint64_t sequence = 0;
  std::uint64_t position = 0;  // among the generated tokens
  std::uint32_t token = 0;
  std::uint32_t other_token = 0;
};

// What both models generated, each from its own tokens.
struct GeneratedComparison {
  std::vector<std::vector<std::uint32_t>> tokens;  // of the other model, by sequence
  double agreement = 1;                            // share of the tokens that are the same
  // The first one by position, of these that of the first sequence.
  std::optional<GeneratedDifference> first;
};
// `other` has as many tokens as `tokens`.
GeneratedComparison CompareGenerated(const std::vector<std::vector<std::uint32_t>>& tokens,
                                     std::vector<std::vector<std::uint32_t>> other);

class OutputComparison {
 public:
  // Rows are the tokens of the sequences; each predicts the next token of its own.
  explicit OutputComparison(const std::vector<std::vector<std::uint32_t>>& sequences);

  // Best tokens that a summary of A's logits must keep.
  static constexpr std::size_t kBest = 2;

  // Logits of all rows for tokens from `first` on; slabs in their order. Adds a's to `of_a`, a
  // summary of each row, which Figures and Top1Differences need, too.
  void Add(ModelWeights& weights, std::uint64_t first, const Rows& a, const Rows& b,
           std::vector<LogitSummary>& of_a);

  LogitFigures Figures(const std::vector<LogitSummary>& of_a) const;
  std::vector<Top1Difference> Top1Differences(const std::vector<LogitSummary>& of_a) const;

 private:
  struct Row {
    Row(std::uint64_t of_sequence, std::uint64_t at, std::optional<std::uint32_t> target)
        : sequence(of_sequence), position(at), b(kBest, target) {}

    double Kl(const LogitSummary& a) const;

    std::uint64_t sequence;
    std::uint64_t position;
    LogitSummary b;
    ErrorSums sums;
    double max_abs = 0;
    double cross = 0;  // Σ exp(a − largest) · (a − b)
  };

  std::vector<Row> rows_;
  bool one_sequence_ = false;
};

}  // namespace dsv3::convert

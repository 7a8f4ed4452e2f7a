#include "convert/forward/head_of_ranks.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "convert/forward/model_parts.h"
#include "convert/forward/ranks.h"

namespace dsv3::convert {

std::set<std::uint32_t> TakeRanksToRun(Ranks& ranks, const RowsOfRanks& before) {
  std::set<std::uint32_t> to_run;
  for (const std::uint32_t rank : ranks.TakeDiffering()) to_run.insert(rank);
  for (const auto& [rank, rows] : before) to_run.insert(rank);
  return to_run;
}

Rows EmbedOnRanks(Modules& modules, const ModelConfig& config, const std::string& name,
                  const std::vector<std::uint32_t>& tokens,
                  const std::vector<SequenceRows>& sequences) {
  ModelWeights& weights = modules.weights();
  Ranks* const ranks = weights.ranks().get();
  if (ranks != nullptr) ranks->TakeDiffering();
  Rows rows = Embed(modules, config, name, tokens);
  if (ranks == nullptr || ranks->TakeDiffering().empty()) return rows;
  const std::vector<std::uint32_t> of_stage = ranks->RanksOfStage(weights.Find(name));
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::uint64_t group = s % ranks->sizes().dp;
    const std::uint32_t rank = of_stage[static_cast<std::size_t>(group * ranks->sizes().tp)];
    Modules own(weights.OfRank(rank), modules.activations());
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(sequences[s].first);
    const auto end = begin + static_cast<std::ptrdiff_t>(sequences[s].count);
    const Rows of_group = Embed(own, config, name, {begin, end});
    std::copy(of_group.values.begin(), of_group.values.end(), rows.row(sequences[s].first));
  }
  return rows;
}

Rows HeadOfRanks::Norm(const Rows& stream, const std::vector<SequenceRows>& sequences,
                       const RowsOfRanks& of_ranks) {
  const auto norm = [&](Modules& modules, const Rows& in) {
    return modules.RmsNorm(norm_, config_.hidden_size, forward_.rms_norm_eps, in);
  };
  Ranks* const ranks = modules_.weights().ranks().get();
  if (ranks != nullptr) ranks->TakeDiffering();
  sequences_ = sequences;
  normed_.clear();
  Rows normed = norm(modules_, stream);
  if (ranks == nullptr) return normed;
  for (const std::uint32_t rank : TakeRanksToRun(*ranks, of_ranks)) {
    const auto own_stream = of_ranks.find(rank);
    Modules own(modules_.weights().OfRank(rank), modules_.activations());
    normed_[rank] = norm(own, own_stream == of_ranks.end() ? stream : own_stream->second);
  }
  return normed;
}

void HeadOfRanks::Correct(const WeightRows& head, std::uint64_t first, const Rows& normed,
                          Rows& logits) {
  ModelWeights& weights = modules_.weights();
  Ranks* const ranks = weights.ranks().get();
  if (ranks == nullptr) return;
  const std::uint64_t ways = ranks->SlicesOf(head.tensor).size();
  const std::uint64_t tp = ranks->sizes().tp;
  const std::uint64_t stage_size = tp * ranks->sizes().dp;
  for (const std::uint32_t rank : TakeRanksToRun(*ranks, normed_)) {
    const auto own_normed = normed_.find(rank);
    const Rows& in = own_normed == normed_.end() ? normed : own_normed->second;
    Modules own(weights.OfRank(rank), modules_.activations());
    for (const Box& box : ranks->BoxesOf(rank, head.tensor)) {
      const std::uint64_t begin = std::max(box.row_begin, first);
      const std::uint64_t end = std::min(box.row_end, first + logits.width);
      if (begin >= end) continue;
      const Rows made = own.ApplyLinear({head.Part(begin, end - begin)}, in);
      for (std::size_t s = 0; s < sequences_.size(); ++s) {
        // The ranks that run the head for the sequence's data parallel group.
        const std::uint64_t group = s % ranks->sizes().dp;
        if (rank % stage_size / ways != group * tp / ways) continue;
        for (std::size_t i = 0; i < sequences_[s].count; ++i) {
          const std::size_t row = sequences_[s].first + i;
          std::copy_n(made.row(row), made.width, logits.row(row) + (begin - first));
        }
      }
    }
  }
}

}  // namespace dsv3::convert

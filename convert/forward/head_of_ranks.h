#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "convert/forward/attention.h"
#include "convert/forward/modules.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// What ranks do before and behind the layers where their copies differ from the first ones; an
// internal part of forward.h. Without ranks nothing is changed.
namespace dsv3::convert {

// The ranks that run on their own: those whose copies differ of what was used since the last
// Ranks::TakeDiffering, and those that have other rows before it.
std::set<std::uint32_t> TakeRanksToRun(Ranks& ranks, const RowsOfRanks& before);

// Rows of the embedding, each sequence's by the ranks of its data parallel group.
Rows EmbedOnRanks(Modules& modules, const ModelConfig& config, const std::string& name,
                  const std::vector<std::uint32_t>& tokens,
                  const std::vector<SequenceRows>& sequences);

// The norm before a head, and the head's product with its output: each rank with its own norm and
// rows.
class HeadOfRanks {
 public:
  // The norm is NORM.weight. All other arguments must outlive the object.
  HeadOfRanks(Modules& modules, const ModelConfig& config, const ForwardConfig& forward,
              std::string norm)
      : modules_(modules), config_(config), forward_(forward), norm_(std::move(norm)) {}

  // The output of the norm, as the first ranks have it. `of_ranks`: the stream of ranks that have
  // another one.
  Rows Norm(const Rows& stream, const std::vector<SequenceRows>& sequences,
            const RowsOfRanks& of_ranks = {});
  // The output of the last Norm as those ranks have it that have another norm or stream.
  const RowsOfRanks& normed_of_ranks() const { return normed_; }
  // Puts into `logits` what other ranks make: columns from `first` on of the head, which
  // were just made of `normed`, what Norm returned.
  void Correct(const WeightRows& head, std::uint64_t first, const Rows& normed, Rows& logits);

 private:
  Modules& modules_;
  const ModelConfig& config_;
  const ForwardConfig& forward_;
  const std::string norm_;
  std::vector<SequenceRows> sequences_;
  RowsOfRanks normed_;
};

}  // namespace dsv3::convert

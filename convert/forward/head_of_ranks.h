#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "convert/forward/attention.h"
#include "convert/forward/modules.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// What ranks do before and behind the layers where their copies differ from the first ones; an
// internal part of forward.h. Without ranks nothing is changed.
namespace dsv3::convert {

// Rows of the embedding, each sequence's by the ranks of its data parallel group.
Rows EmbedOnRanks(Modules& modules, const ModelConfig& config, const std::string& name,
                  const std::vector<std::uint32_t>& tokens,
                  const std::vector<SequenceRows>& sequences);

// The final norm, and the head's product with its output: each rank with its own norm and rows.
class HeadOfRanks {
 public:
  // All arguments must outlive the object.
  HeadOfRanks(Modules& modules, const ModelConfig& config, const ForwardConfig& forward)
      : modules_(modules), config_(config), forward_(forward) {}

  // The output of the final norm, as the first ranks have it.
  Rows Norm(const Rows& stream, const std::vector<SequenceRows>& sequences);
  // Puts into `logits` what other ranks make: columns from `first` on of the head, which
  // were just made of `normed`, what Norm returned.
  void Correct(const WeightRows& head, std::uint64_t first, const Rows& normed, Rows& logits);

 private:
  Modules& modules_;
  const ModelConfig& config_;
  const ForwardConfig& forward_;
  std::vector<SequenceRows> sequences_;
  std::map<std::uint32_t, Rows> normed_;  // of ranks with another norm
};

}  // namespace dsv3::convert

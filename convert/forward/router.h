#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "convert/model/forward_config.h"

// Which experts a token goes to; an internal part of forward.h.
namespace dsv3::convert {

struct ExpertChoice {
  std::vector<std::uint32_t> experts;  // by score, the best first; of equal ones the lower number
  std::vector<float> weights;          // of each
  // The score of the last expert chosen less that of the best one that was not; infinite where the
  // kept groups have no further expert.
  float margin = 0;
};

// `logits`: the router's output for one token, one for each expert. `bias` (empty: none) counts in
// the choice and not in the weights. Throws nothing; pure.
ExpertChoice ChooseExperts(const ForwardConfig& config, std::uint64_t groups, std::uint64_t top_k,
                           std::span<const float> logits, std::span<const float> bias);

// The same for experts that are given: `experts` with the weights that the logits give them.
ExpertChoice WeighExperts(const ForwardConfig& config, std::span<const float> logits,
                          std::vector<std::uint32_t> experts);

}  // namespace dsv3::convert

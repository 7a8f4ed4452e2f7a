#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/forward/attention.h"
#include "convert/forward/head_of_ranks.h"
#include "convert/forward/modules.h"
#include "convert/forward/rotary.h"
#include "convert/forward/router.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// The first MTP layer of a model, which predicts the token behind the next; an internal part of
// forward.h.
namespace dsv3::convert {

// Throws Error (kUsage) where the model has no MTP layer, or a sequence no token behind its first.
void RequireMtp(const ModelConfig& config,
                const std::vector<std::vector<std::uint32_t>>& sequences);

class MtpLayer {
 public:
  // All arguments must outlive the object.
  MtpLayer(const ModelConfig& config, const ForwardConfig& forward, const Rotary& rotary,
           AttentionForm form, Modules& modules);

  struct Result {
    Rows normed;  // behind shared_head.norm: a row for each token but the last of its sequence
    bool is_moe = false;
    std::vector<ExpertChoice> choices;  // of each row; empty without experts
    KeyChoice keys;
  };
  // `normed`: the main model's output behind its final norm, a row for each token, and that of
  // ranks that have another one. `replay` (nullptr: none) is the result of another model, whose
  // experts and keys the layer takes.
  Result Run(const std::vector<std::vector<std::uint32_t>>& sequences, const Rows& normed,
             const RowsOfRanks& normed_of_ranks, const Result* replay = nullptr);

  // The number of the layer, which counts behind the main ones.
  std::uint64_t layer() const { return config_.num_hidden_layers; }
  // The matrix that makes the logits, and the module that it is.
  WeightRows Head() const;
  std::string HeadName() const { return name_ + "shared_head.head"; }
  // What ranks make of the last run.
  HeadOfRanks& head_of_ranks() { return head_; }

 private:
  // The stream before the layer: eh_proj of both inputs, each behind its norm.
  Rows Enter(Modules& modules, const Rows& embedded, const Rows& before);

  const ModelConfig& config_;
  const ForwardConfig& forward_;
  const Rotary& rotary_;
  const AttentionForm form_;
  Modules& modules_;
  const std::string name_;  // "model.layers.61."
  HeadOfRanks head_;
};

}  // namespace dsv3::convert

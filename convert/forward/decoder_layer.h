#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/forward/attention.h"
#include "convert/forward/modules.h"
#include "convert/forward/rotary.h"
#include "convert/forward/router.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// One layer of the model: attention and MLP, each behind a norm and added to the stream. An
// internal part of forward.h.
namespace dsv3::convert {

// The rows of a batch, and what layers keep of them.
struct Batch {
  std::vector<SequenceRows> sequences;
  KeyChoice keys;  // of the last layer that had an indexer
};

class DecoderLayer {
 public:
  // `layer` counts MTP layers behind the main ones, as tensors' names do.
  DecoderLayer(const ModelConfig& model, const ForwardConfig& forward, const Rotary& rotary,
               AttentionForm form, Modules& modules, std::uint64_t layer);

  // Whether it has routed experts.
  bool is_moe() const { return is_moe_; }

  // Adds the layer's outputs to `stream`. `choices` becomes the experts of each row; it stays empty
  // for a layer without experts. `replay` (nullptr: none) has the experts of each row, and then
  // batch.keys the keys: the layer takes these and chooses none.
  void Run(Rows& stream, Batch& batch, LayerCache& cache, std::vector<ExpertChoice>& choices,
           const std::vector<ExpertChoice>* replay = nullptr);

 private:
  Rows RunExperts(const Rows& in, std::vector<ExpertChoice>& choices,
                  const std::vector<ExpertChoice>* replay);
  // Runs the attention as the config of the other model says, and compares it with `out`.
  void CompareAttention(const Rows& in, const Rows& out, const Batch& batch);
  // The first rank that holds an expert; 0 without ranks.
  std::uint32_t RankOf(const GatedMlp& expert) const;
  Rows RoutedSum(const Rows& in, const std::vector<ExpertChoice>& choices);
  GatedMlp Mlp(const std::string& part, std::uint64_t width);
  GatedMlp Expert(std::uint64_t expert);
  GatedMlp SharedExpert();
  void ExpectMlps(const std::vector<Modules::MlpRows>& mlps);
  void ExpectNextLayer();

  const ModelConfig& model_;
  const ForwardConfig& forward_;
  const Rotary& rotary_;
  const AttentionForm form_;
  Modules& modules_;
  const std::uint64_t layer_;
  const std::string name_;  // "model.layers.3."
  const bool is_moe_;
};

}  // namespace dsv3::convert

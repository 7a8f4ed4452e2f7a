#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
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
  // The same of ranks that run on their own and chose other keys.
  std::map<std::uint32_t, KeyChoice> keys_of_ranks = {};
  // The stream of ranks that have another one; of sequences that are not theirs, the first ranks'.
  RowsOfRanks streams_of_ranks = {};
};

class DecoderLayer {
 public:
  // `layer` counts MTP layers behind the main ones, as tensors' names do.
  DecoderLayer(const ModelConfig& model, const ForwardConfig& forward, const Rotary& rotary,
               AttentionForm form, Modules& modules, std::uint64_t layer);

  // Whether it has routed experts.
  bool is_moe() const { return is_moe_; }

  // Adds the layer's outputs to `stream` and to batch.streams_of_ranks. `choices` becomes the
  // experts of each row; it stays empty for a layer without experts. `replay` (nullptr: none) has
  // the experts of each row, and then batch.keys the keys: the layer takes these and chooses none.
  void Run(Rows& stream, Batch& batch, LayerCache& cache, std::vector<ExpertChoice>& choices,
           const std::vector<ExpertChoice>* replay = nullptr);

 private:
  // Sets `choices` to the experts of each row.
  void Choose(const Rows& in, std::vector<ExpertChoice>& choices,
              const std::vector<ExpertChoice>* replay);
  Rows RunExperts(const Rows& in, std::vector<ExpertChoice>& choices,
                  const std::vector<ExpertChoice>* replay);
  // Runs the attention as the config of the other model says, and compares it with `out`.
  void CompareAttention(const Rows& in, const Rows& out, const Batch& batch);
  // The first rank that holds an expert; 0 without ranks.
  std::uint32_t RankOf(const GatedMlp& expert) const;
  // `part` says which part of an expert runs, if any; empty: all of each.
  using ExpertPart = std::function<std::optional<GatedMlp>(const GatedMlp&)>;
  Rows RoutedSum(const Rows& in, const std::vector<ExpertChoice>& choices,
                 const ExpertPart& part = {});

  // Whether ranks have other copies of what was read since the last call than the first ones.
  bool CopiesDiffer();
  // The layer with the weights that a rank has.
  DecoderLayer With(Modules& modules) const;
  // The parts with which each rank runs on its own copies and its own stream, behind its own norm;
  // `stream` is the layer's before the part.
  Rows AttentionOfRanks(const Rows& stream, Batch& batch, bool has_indexer, LayerCache& cache);
  Rows MlpOfRanks(const Rows& stream, const Batch& batch, const std::string& part,
                  std::uint64_t width);
  Rows ExpertsOfRanks(const Rows& stream, const Batch& batch,
                      const std::vector<ExpertChoice>* replay);

  GatedMlp Mlp(const std::string& part, std::uint64_t width);
  GatedMlp Expert(std::uint64_t expert);
  WeightRows RouterWeight();
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

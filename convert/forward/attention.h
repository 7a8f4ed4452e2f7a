#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "convert/forward/attention_form.h"
#include "convert/forward/modules.h"
#include "convert/forward/rotary.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// Multi-head latent attention, with V3.2's indexer; an internal part of forward.h.
namespace dsv3::convert {

// The rows of a batch that belong to one sequence: `count` of them from `first` on, at positions
// from `past` on.
struct SequenceRows {
  std::size_t first = 0;
  std::size_t count = 0;
  std::size_t past = 0;
};

// What a layer keeps of the tokens of one sequence, for those that follow; by position.
struct SequenceCache {
  std::vector<float> latents;     // after their norm
  std::vector<float> rope_keys;   // turned
  std::vector<float> index_keys;  // of the layer's own indexer, turned
  // Keys and values of every head, where they are kept; else they are made anew of the latents.
  std::vector<float> keys_values;
  std::size_t kept_positions = 0;  // 0: they are not kept; else there are at most so many
  // One for each rank that runs on its own.
  std::map<std::uint32_t, std::vector<SequenceCache>> of_ranks = {};
};
using LayerCache = std::vector<SequenceCache>;  // by sequence

// Has the caches keep the keys and values of sequences of so many positions, in as many layers as
// half of the memory suffices for; 0: of kDefaultMemoryBytes. Returns what is left of the half. The
// attention's results do not depend on it.
std::uint64_t KeepKeysAndValues(const ModelConfig& model, const std::vector<std::size_t>& positions,
                                std::uint64_t memory_bytes, std::vector<LayerCache>& layers);

// The keys that each row of a batch attends to: positions, ascending. Empty: all up to its own.
using KeyChoice = std::vector<std::vector<std::uint32_t>>;

// Some heads of a layer, and none of its output's bias.
struct HeadRange {
  std::size_t first = 0;
  std::size_t count = 0;
};

// The attention of one layer, or what some of its heads add to the output. `name` is what its
// tensors begin with: "model.layers.0.self_attn.".
class Attention {
 public:
  Attention(const ModelConfig& model, const ForwardConfig& forward, const Rotary& rotary,
            AttentionForm form, Modules& modules, std::string name,
            std::optional<HeadRange> heads = std::nullopt);

  // Has the weights read ahead, see ModelWeights::Expect.
  void ExpectWeights();
  // The output for normed inputs; adds their latents to `cache`. Layers with an indexer set `keys`,
  // layers without one use what is in it.
  Rows Run(const Rows& in, const std::vector<SequenceRows>& sequences, bool has_indexer,
           LayerCache& cache, KeyChoice& keys);

 private:
  Linear BiasedLinear(const std::string& part, std::uint64_t rows, std::uint64_t cols);
  Rows MakeQueries(const Rows& in, Rows& q_latents);
  void AddToCache(const Rows& in, const std::vector<SequenceRows>& sequences, LayerCache& cache);
  void ChooseKeys(const Rows& in, const Rows& q_latents, const std::vector<SequenceRows>& sequences,
                  LayerCache& cache, KeyChoice& keys);
  Rows AttendNaive(const Rows& queries, const std::vector<SequenceRows>& sequences,
                   LayerCache& cache, const KeyChoice& keys);
  Rows AttendAbsorbed(const Rows& queries, const std::vector<SequenceRows>& sequences,
                      const LayerCache& cache, const KeyChoice& keys);
  Rows KeysAndValues(const Rows& latents);
  std::vector<const float*> KeysAndValuesOf(LayerCache& cache, Rows& made);
  template <typename Memory>
  void AttendAll(const Rows& queries, const Rows& own, const std::vector<SequenceRows>& sequences,
                 const KeyChoice& keys, const Memory& memory, Rows& out);
  WeightRows KeyRows(std::size_t head) const;    // [nope, latents]
  WeightRows ValueRows(std::size_t head) const;  // [v, latents]
  // `rows` rows of a head: all that it has in the tensor `own`, or those from `first` on in
  // kv_b_proj.
  WeightRows RowsOfHead(std::size_t head, const char* own, std::size_t first,
                        std::size_t rows) const;

  const ModelConfig& model_;
  const ForwardConfig& forward_;
  const Rotary& rotary_;
  const AttentionForm form_;
  Modules& modules_;
  const std::string name_;
  const bool is_part_;
  const std::size_t all_heads_;
  const std::size_t first_head_;
  const std::size_t heads_;  // from first_head_ on
  const std::size_t nope_;   // dimensions of a head's key without the rotary ones
  const std::size_t rope_;
  const std::size_t v_;     // of a head's value
  const std::size_t rank_;  // of a latent
};

}  // namespace dsv3::convert

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "convert/forward/decoder_layer.h"
#include "convert/forward/ranks.h"
#include "quant/matmul.h"

// A layer whose ranks have other copies of a weight than the first ones: each rank runs its part
// with what it has.
namespace dsv3::convert {
namespace {

// Some rows of a batch, as a batch of their own.
struct SomeRows {
  std::vector<std::size_t> rows;  // of the whole batch
  std::vector<std::size_t> sequences;
  std::vector<SequenceRows> places;

  // Those of the data parallel groups that `takes` accepts: sequences are dealt out to the groups.
  template <typename Takes>
  SomeRows(const std::vector<SequenceRows>& all, std::uint64_t groups, const Takes& takes) {
    for (std::size_t s = 0; s < all.size(); ++s) {
      if (!takes(s % groups)) continue;
      sequences.push_back(s);
      places.push_back({rows.size(), all[s].count, all[s].past});
      for (std::size_t i = 0; i < all[s].count; ++i) rows.push_back(all[s].first + i);
    }
  }

  Rows Of(const Rows& all) const {
    Rows some(rows.size(), all.width);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(all.row(rows[i]), all.width, some.row(i));
    }
    return some;
  }
  void AddTo(Rows& all, const Rows& some) const {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      float* const sum = all.row(rows[i]);
      for (std::size_t k = 0; k < all.width; ++k) sum[k] += some.row(i)[k];
    }
  }
};

const Rows& StreamOf(std::uint32_t rank, const Batch& batch, const Rows& stream) {
  const auto own = batch.streams_of_ranks.find(rank);
  return own == batch.streams_of_ranks.end() ? stream : own->second;
}

// What a rank runs with while nothing of it is compared: its own weights where any of them differ.
class RankModules {
 public:
  RankModules(Modules& modules, std::uint32_t rank)
      : weights_(modules.weights()),
        comparison_(weights_.comparison()),
        modules_(weights_.ranks()->HasDiffering(rank) ? weights_.OfRank(rank) : weights_,
                 modules.activations()) {
    weights_.set_comparison(nullptr);
  }
  ~RankModules() { weights_.set_comparison(comparison_); }
  RankModules(const RankModules&) = delete;
  RankModules& operator=(const RankModules&) = delete;

  Modules& operator*() { return modules_; }
  Modules* operator->() { return &modules_; }

 private:
  ModelWeights& weights_;
  WeightComparison* const comparison_;
  Modules modules_;
};

// The part of a gated MLP that has these rows of gate and up.
GatedMlp PartOf(const GatedMlp& mlp, const Box& gate) {
  return {mlp.gate.Part(gate.row_begin, gate.rows()), mlp.up.Part(gate.row_begin, gate.rows()),
          mlp.down.Columns(gate.row_begin, gate.rows())};
}

}  // namespace

bool DecoderLayer::CopiesDiffer() {
  Ranks* const ranks = modules_.weights().ranks().get();
  return ranks != nullptr && !ranks->TakeDiffering().empty();
}

DecoderLayer DecoderLayer::With(Modules& modules) const {
  return DecoderLayer(model_, forward_, rotary_, form_, modules, layer_);
}

Rows DecoderLayer::AttentionOfRanks(const Rows& stream, Batch& batch, bool has_indexer,
                                    LayerCache& cache) {
  ModelWeights& weights = modules_.weights();
  const Ranks& ranks = *weights.ranks();
  const std::uint32_t queries = weights.Find(
      name_ + "self_attn." + (model_.q_lora_rank == 0 ? "q_proj" : "q_b_proj") + ".weight");
  const std::uint64_t head_rows = model_.qk_nope_head_dim + model_.qk_rope_head_dim;
  const bool is_cut = ranks.SlicesOf(queries).size() > 1;
  Rows sum(stream.count(), stream.width);
  for (const std::uint32_t rank : ranks.RanksOfStage(queries)) {
    const std::vector<Box> boxes = ranks.BoxesOf(rank, queries);
    const formats::LayoutRank& place = ranks.At(rank);
    // What all ranks of a group hold whole, the first one runs.
    if (boxes.empty() || (!is_cut && place.tp_rank != 0)) continue;
    const SomeRows own(batch.sequences, ranks.sizes().dp,
                       [&](std::uint64_t group) { return group == place.dp_rank; });
    if (own.rows.empty()) continue;
    RankModules modules(modules_, rank);
    const Rows in = modules->RmsNorm(name_ + "input_layernorm", model_.hidden_size,
                                     forward_.rms_norm_eps, own.Of(StreamOf(rank, batch, stream)));
    const auto known = batch.keys_of_ranks.find(rank);
    const KeyChoice& of_batch = known == batch.keys_of_ranks.end() ? batch.keys : known->second;
    KeyChoice keys;
    for (const std::size_t row : own.rows) {
      if (!of_batch.empty()) keys.push_back(of_batch[row]);
    }
    LayerCache own_cache;
    for (const std::size_t s : own.sequences) {
      std::vector<SequenceCache>& kept = cache[s].of_ranks[rank];
      own_cache.push_back(kept.empty() ? SequenceCache{} : std::move(kept.front()));
    }
    const HeadRange heads{static_cast<std::size_t>(boxes.front().row_begin / head_rows),
                          static_cast<std::size_t>(boxes.front().rows() / head_rows)};
    Attention attention(model_, forward_, rotary_, form_, *modules, name_ + "self_attn.", heads);
    own.AddTo(sum, attention.Run(in, own.places, has_indexer, own_cache, keys));
    for (std::size_t i = 0; i < own.sequences.size(); ++i) {
      cache[own.sequences[i]].of_ranks[rank] = {std::move(own_cache[i])};
    }
    if (!has_indexer) continue;
    KeyChoice& chosen = batch.keys_of_ranks[rank];
    chosen.resize(stream.count());
    for (std::size_t i = 0; i < keys.size(); ++i) chosen[own.rows[i]] = keys[i];
  }
  if (model_.attention_bias) {
    const std::vector<float> bias =
        weights.Vector(name_ + "self_attn.o_proj.bias", model_.hidden_size);
    for (std::size_t row = 0; row < sum.count(); ++row) {
      for (std::size_t k = 0; k < sum.width; ++k) sum.row(row)[k] += bias[k];
    }
  }
  modules_.Round(sum.values);
  CopiesDiffer();
  return sum;
}

Rows DecoderLayer::MlpOfRanks(const Rows& stream, const Batch& batch, const std::string& part,
                              std::uint64_t width) {
  ModelWeights& weights = modules_.weights();
  const Ranks& ranks = *weights.ranks();
  const std::uint32_t gate = weights.Find(name_ + "mlp." + part + "gate_proj.weight");
  const std::uint64_t ways = ranks.SlicesOf(gate).size();
  const std::uint64_t tp = ranks.sizes().tp;
  const std::uint64_t stage_size = tp * ranks.sizes().dp;
  Rows sum(stream.count(), stream.width);
  for (const std::uint32_t rank : ranks.RanksOfStage(gate)) {
    const std::vector<Box> boxes = ranks.BoxesOf(rank, gate);
    // Of several copies in a data parallel group the first ones run.
    const SomeRows own(batch.sequences, ranks.sizes().dp, [&](std::uint64_t group) {
      return rank % stage_size / ways == group * tp / ways;
    });
    if (boxes.empty() || own.rows.empty()) continue;
    RankModules modules(modules_, rank);
    Rows in = modules->RmsNorm(name_ + "post_attention_layernorm", model_.hidden_size,
                               forward_.rms_norm_eps, own.Of(StreamOf(rank, batch, stream)));
    const Modules::MlpRows mlp{PartOf(With(*modules).Mlp(part, width), boxes.front()), 0,
                               in.count()};
    own.AddTo(sum, modules->ApplyMlps(std::span(&mlp, 1), std::move(in)));
  }
  modules_.Round(sum.values);
  return sum;
}

Rows DecoderLayer::ExpertsOfRanks(const Rows& stream, const Batch& batch,
                                  const std::vector<ExpertChoice>* replay) {
  ModelWeights& weights = modules_.weights();
  const Ranks& ranks = *weights.ranks();
  Rows sum(stream.count(), stream.width);
  for (const std::uint32_t rank : ranks.RanksOfStage(weights.Find(name_ + "mlp.gate.weight"))) {
    RankModules modules(modules_, rank);
    DecoderLayer of_rank = With(*modules);
    const Rows in = modules->RmsNorm(name_ + "post_attention_layernorm", model_.hidden_size,
                                     forward_.rms_norm_eps, StreamOf(rank, batch, stream));
    std::vector<ExpertChoice> choices;
    of_rank.Choose(in, choices, replay);
    const auto part = [&](const GatedMlp& expert) -> std::optional<GatedMlp> {
      const std::vector<Ranks::Slice> gates = ranks.SlicesOf(expert.gate.tensor);
      for (const Ranks::Slice& slice : gates) {
        if (slice.rank == rank) return gates.size() == 1 ? expert : PartOf(expert, slice.box);
      }
      return std::nullopt;
    };
    const Rows own = of_rank.RoutedSum(in, choices, part);
    for (std::size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += own.values[i];
  }
  modules_.Round(sum.values);
  if (model_.n_shared_experts > 0) {
    modules_.Add(MlpOfRanks(stream, batch, "shared_experts.",
                            model_.n_shared_experts * model_.moe_intermediate_size),
                 sum);
  }
  return sum;
}

}  // namespace dsv3::convert

#include "convert/forward/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "convert/model/expected_tensors.h"
#include "quant/elementwise.h"
#include "quant/matmul.h"

namespace dsv3::convert {
namespace {

// The sequence and the place in it of every row of a batch.
struct RowPlace {
  std::size_t sequence = 0;
  std::size_t position = 0;
};

std::vector<RowPlace> PlacesOf(const std::vector<SequenceRows>& sequences, std::size_t rows) {
  std::vector<RowPlace> places(rows);
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t i = 0; i < sequences[s].count; ++i) {
      places[sequences[s].first + i] = {s, sequences[s].past + i};
    }
  }
  return places;
}

// The keys of one row: chosen positions, or all up to its own.
class KeysOfRow {
 public:
  KeysOfRow(const KeyChoice& keys, std::size_t row, std::size_t position)
      : chosen_(keys.empty() || keys[row].empty() ? nullptr : &keys[row]),
        count_(chosen_ == nullptr ? position + 1 : chosen_->size()) {}

  std::size_t count() const { return count_; }
  std::size_t At(std::size_t i) const { return chosen_ == nullptr ? i : (*chosen_)[i]; }

 private:
  const std::vector<std::uint32_t>* chosen_;
  std::size_t count_;
};

void Append(const float* values, std::size_t count, std::vector<float>& to) {
  to.insert(to.end(), values, values + count);
}

}  // namespace

Attention::Attention(const ModelConfig& model, const ForwardConfig& forward, const Rotary& rotary,
                     AttentionForm form, Modules& modules, std::string name)
    : model_(model),
      forward_(forward),
      rotary_(rotary),
      form_(form),
      modules_(modules),
      name_(std::move(name)),
      heads_(static_cast<std::size_t>(model.num_attention_heads)),
      nope_(static_cast<std::size_t>(model.qk_nope_head_dim)),
      rope_(static_cast<std::size_t>(model.qk_rope_head_dim)),
      v_(static_cast<std::size_t>(model.v_head_dim)),
      rank_(static_cast<std::size_t>(model.kv_lora_rank)) {}

Linear Attention::BiasedLinear(const std::string& part, std::uint64_t rows, std::uint64_t cols) {
  Linear linear{modules_.weights().Matrix(name_ + part + ".weight", rows, cols)};
  if (model_.attention_bias) linear.bias = modules_.weights().Vector(name_ + part + ".bias", rows);
  return linear;
}

Rows Attention::MakeQueries(const Rows& in, Rows& q_latents) {
  const ModelWeights& weights = modules_.weights();
  const std::size_t rows = heads_ * (nope_ + rope_);
  if (model_.q_lora_rank == 0) {
    return modules_.ApplyLinear({weights.Matrix(name_ + "q_proj.weight", rows, model_.hidden_size)},
                                in);
  }
  const Rows down =
      modules_.ApplyLinear(BiasedLinear("q_a_proj", model_.q_lora_rank, model_.hidden_size), in);
  q_latents = modules_.RmsNorm(name_ + "q_a_layernorm", model_.q_lora_rank, kLatentNormEps, down);
  return modules_.ApplyLinear({weights.Matrix(name_ + "q_b_proj.weight", rows, model_.q_lora_rank)},
                              q_latents);
}

void Attention::AddToCache(const Rows& in, const std::vector<SequenceRows>& sequences,
                           LayerCache& cache) {
  Rows compressed = modules_.ApplyLinear(
      BiasedLinear("kv_a_proj_with_mqa", rank_ + rope_, model_.hidden_size), in);
  const Rows latents =
      modules_.RmsNorm(name_ + "kv_a_layernorm", rank_, kLatentNormEps, compressed);
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t i = 0; i < sequences[s].count; ++i) {
      const std::size_t row = sequences[s].first + i;
      const std::span<float> key(compressed.row(row) + rank_, rope_);
      rotary_.Turn(sequences[s].past + i, forward_.rope_pairs, key);
      modules_.Round(key);
      Append(latents.row(row), rank_, cache[s].latents);
      Append(key.data(), rope_, cache[s].rope_keys);
    }
  }
}

void Attention::ChooseKeys(const Rows& in, const Rows& q_latents,
                           const std::vector<SequenceRows>& sequences, LayerCache& cache,
                           KeyChoice& keys) {
  ModelWeights& weights = modules_.weights();
  const std::string name = name_ + "indexer.";
  const auto heads = static_cast<std::size_t>(model_.index_n_heads);
  const auto dims = static_cast<std::size_t>(model_.index_head_dim);
  Rows queries = modules_.ApplyLinear(
      {weights.Matrix(name + "wq_b.weight", heads * dims, model_.q_lora_rank)}, q_latents);
  Rows own_keys = modules_.LayerNorm(
      name + "k_norm", kLatentNormEps,
      modules_.ApplyLinear({weights.Matrix(name + "wk.weight", dims, model_.hidden_size)}, in));
  const Rows head_weights = modules_.ApplyLinear(
      {weights.Matrix(name + "weights_proj.weight", heads, model_.hidden_size)}, in);
  const std::vector<RowPlace> places = PlacesOf(sequences, in.count());
  for (std::size_t row = 0; row < in.count(); ++row) {
    const auto [sequence, position] = places[row];
    for (std::size_t head = 0; head < heads; ++head) {
      rotary_.Turn(position, forward_.index_rope_pairs,
                   std::span(queries.row(row) + head * dims, rope_));
    }
    rotary_.Turn(position, forward_.index_rope_pairs, std::span(own_keys.row(row), rope_));
    Append(own_keys.row(row), dims, cache[sequence].index_keys);
  }
  const float head_factor = 1 / std::sqrt(static_cast<float>(heads));
  const float score_factor = 1 / std::sqrt(static_cast<float>(dims));
  keys.assign(in.count(), {});
  weights.ForEach(in.count(), [&](std::size_t row) {
    const RowPlace place = places[row];
    const std::size_t count = place.position + 1;
    if (count <= forward_.index_topk) return;
    std::vector<float> scores(count, 0);
    for (std::size_t key = 0; key < count; ++key) {
      const float* const of_key = cache[place.sequence].index_keys.data() + key * dims;
      for (std::size_t head = 0; head < heads; ++head) {
        const float product =
            quant::Dot(queries.row(row) + head * dims, of_key, dims) * score_factor;
        scores[key] += head_weights.row(row)[head] * head_factor * std::max(product, 0.0F);
      }
    }
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(forward_.index_topk);
    std::nth_element(order.begin(), end, order.end(), [&](std::uint32_t a, std::uint32_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    });
    order.erase(end, order.end());
    std::sort(order.begin(), order.end());
    keys[row] = std::move(order);
  });
}

// --mla split writes the keys' and the values' rows of all heads apart; kv_b_proj has those of a
// head's key, then those of its value.
WeightRows Attention::RowsOfHead(std::size_t head, const char* own, std::size_t first,
                                 std::size_t rows) const {
  const ModelWeights& weights = modules_.weights();
  if (weights.Has(name_ + own)) {
    return weights.MatrixOf(name_ + own, 0, 1, head * rows, rows, heads_ * rows, rank_);
  }
  return weights.MatrixOf(name_ + "kv_b_proj.weight", 0, 1, head * (nope_ + v_) + first, rows,
                          heads_ * (nope_ + v_), rank_);
}

WeightRows Attention::KeyRows(std::size_t head) const {
  return RowsOfHead(head, "k_b_proj.weight", 0, nope_);
}

WeightRows Attention::ValueRows(std::size_t head) const {
  return RowsOfHead(head, "v_b_proj.weight", nope_, v_);
}

// Of each position: for every head its key, without the rotary part, and its value.
Rows Attention::KeysAndValues(const std::vector<float>& latents, std::size_t positions) {
  ModelWeights& weights = modules_.weights();
  const std::size_t width = heads_ * (nope_ + v_);
  Rows kv(positions, width);
  std::vector<float> scratch;
  const float* const in = modules_.InputOf(KeyRows(0), latents.data(), positions, rank_, scratch);
  std::vector<Product> products;
  if (weights.Has(name_ + "kv_b_proj.weight")) {
    products.push_back({weights.Matrix(name_ + "kv_b_proj.weight", width, rank_), in, rank_,
                        positions, kv.values.data(), width});
  } else {
    for (std::size_t head = 0; head < heads_; ++head) {
      float* const out = kv.values.data() + head * (nope_ + v_);
      products.push_back({KeyRows(head), in, rank_, positions, out, width});
      products.push_back({ValueRows(head), in, rank_, positions, out + nope_, width});
    }
  }
  weights.Multiply(products);
  modules_.Round(kv.values);
  return kv;
}

template <typename Score>
void Attention::Weigh(std::size_t keys, const Score& score, std::vector<float>& weights) const {
  weights.resize(keys);
  const auto scale = static_cast<float>(forward_.softmax_scale);
  for (std::size_t i = 0; i < keys; ++i) weights[i] = score(i) * scale;
  quant::SoftmaxInPlace(weights);
}

Rows Attention::AttendNaive(const Rows& queries, const std::vector<SequenceRows>& sequences,
                            const LayerCache& cache, const KeyChoice& keys) {
  ModelWeights& weights = modules_.weights();
  Rows out(queries.count(), heads_ * v_);
  const std::vector<RowPlace> places = PlacesOf(sequences, queries.count());
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::size_t positions = cache[s].latents.size() / rank_;
    const Rows kv = KeysAndValues(cache[s].latents, positions);
    weights.ForEach(sequences[s].count * heads_, [&](std::size_t task) {
      const std::size_t row = sequences[s].first + task / heads_;
      const std::size_t head = task % heads_;
      const KeysOfRow of_row(keys, row, places[row].position);
      const float* const query = queries.row(row) + head * (nope_ + rope_);
      std::vector<float> weight;
      Weigh(
          of_row.count(),
          [&](std::size_t i) {
            const std::size_t key = of_row.At(i);
            return quant::Dot(query, kv.row(key) + head * (nope_ + v_), nope_) +
                   quant::Dot(query + nope_, cache[s].rope_keys.data() + key * rope_, rope_);
          },
          weight);
      float* const result = out.row(row) + head * v_;
      for (std::size_t i = 0; i < of_row.count(); ++i) {
        quant::AddScaled(weight[i], kv.row(of_row.At(i)) + head * (nope_ + v_) + nope_, result, v_);
      }
    });
  }
  return out;
}

Rows Attention::AttendAbsorbed(const Rows& queries, const std::vector<SequenceRows>& sequences,
                               const LayerCache& cache, const KeyChoice& keys) {
  ModelWeights& weights = modules_.weights();
  // First the queries in the space of the latents, then what the latents give.
  Rows in_latents(queries.count(), heads_ * rank_);
  std::vector<TransposedProduct> absorb;
  for (std::size_t head = 0; head < heads_; ++head) {
    absorb.push_back({KeyRows(head), queries.values.data() + head * (nope_ + rope_), queries.width,
                      queries.count(), in_latents.values.data() + head * rank_, in_latents.width});
  }
  weights.Multiply(absorb);
  modules_.Round(in_latents.values);
  const std::vector<RowPlace> places = PlacesOf(sequences, queries.count());
  weights.ForEach(queries.count() * heads_, [&](std::size_t task) {
    const std::size_t row = task / heads_;
    const std::size_t head = task % heads_;
    const SequenceCache& of_sequence = cache[places[row].sequence];
    const KeysOfRow of_row(keys, row, places[row].position);
    float* const query = in_latents.row(row) + head * rank_;
    const float* const rope_query = queries.row(row) + head * (nope_ + rope_) + nope_;
    std::vector<float> weight;
    Weigh(
        of_row.count(),
        [&](std::size_t i) {
          const std::size_t key = of_row.At(i);
          return quant::Dot(query, of_sequence.latents.data() + key * rank_, rank_) +
                 quant::Dot(rope_query, of_sequence.rope_keys.data() + key * rope_, rope_);
        },
        weight);
    std::fill_n(query, rank_, 0.0F);
    for (std::size_t i = 0; i < of_row.count(); ++i) {
      quant::AddScaled(weight[i], of_sequence.latents.data() + of_row.At(i) * rank_, query, rank_);
    }
  });
  modules_.Round(in_latents.values);
  Rows out(queries.count(), heads_ * v_);
  std::vector<Product> products;
  for (std::size_t head = 0; head < heads_; ++head) {
    products.push_back({ValueRows(head), in_latents.values.data() + head * rank_, in_latents.width,
                        queries.count(), out.values.data() + head * v_, out.width});
  }
  weights.Multiply(products);
  return out;
}

Rows Attention::Run(const Rows& in, const std::vector<SequenceRows>& sequences, bool has_indexer,
                    LayerCache& cache, KeyChoice& keys) {
  Rows q_latents;
  Rows queries = MakeQueries(in, q_latents);
  AddToCache(in, sequences, cache);
  if (has_indexer) ChooseKeys(in, q_latents, sequences, cache, keys);
  const std::vector<RowPlace> places = PlacesOf(sequences, in.count());
  for (std::size_t row = 0; row < in.count(); ++row) {
    for (std::size_t head = 0; head < heads_; ++head) {
      const std::span<float> turned(queries.row(row) + head * (nope_ + rope_) + nope_, rope_);
      rotary_.Turn(places[row].position, forward_.rope_pairs, turned);
      modules_.Round(turned);
    }
  }
  Rows mixed = form_ == AttentionForm::kNaive ? AttendNaive(queries, sequences, cache, keys)
                                              : AttendAbsorbed(queries, sequences, cache, keys);
  modules_.Round(mixed.values);
  return modules_.ApplyLinear(BiasedLinear("o_proj", model_.hidden_size, heads_ * v_), mixed);
}

}  // namespace dsv3::convert

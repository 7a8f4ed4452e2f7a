#include "convert/forward/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "convert/forward/attend.h"
#include "convert/model/expected_tensors.h"
#include "convert/stream/executor.h"
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

void Append(const float* values, std::size_t count, std::vector<float>& to) {
  to.insert(to.end(), values, values + count);
}

}  // namespace

std::uint64_t KeepKeysAndValues(const ModelConfig& model, const std::vector<std::size_t>& positions,
                                std::uint64_t memory_bytes, std::vector<LayerCache>& layers) {
  std::uint64_t bytes = (memory_bytes == 0 ? kDefaultMemoryBytes : memory_bytes) / 2;
  const std::uint64_t position_bytes =
      model.num_attention_heads * (model.qk_nope_head_dim + model.v_head_dim) * sizeof(float);
  const std::uint64_t layer_bytes =
      position_bytes * std::accumulate(positions.begin(), positions.end(), std::uint64_t{0});
  for (LayerCache& layer : layers) {
    if (bytes < layer_bytes) return bytes;
    bytes -= layer_bytes;
    layer.resize(positions.size());
    for (std::size_t s = 0; s < positions.size(); ++s) layer[s].kept_positions = positions[s];
  }
  return bytes;
}

Attention::Attention(const ModelConfig& model, const ForwardConfig& forward, const Rotary& rotary,
                     AttentionForm form, Modules& modules, std::string name,
                     std::optional<HeadRange> heads)
    : model_(model),
      forward_(forward),
      rotary_(rotary),
      form_(form),
      modules_(modules),
      name_(std::move(name)),
      is_part_(heads.has_value()),
      all_heads_(static_cast<std::size_t>(model.num_attention_heads)),
      first_head_(heads ? heads->first : 0),
      heads_(heads ? heads->count : all_heads_),
      nope_(static_cast<std::size_t>(model.qk_nope_head_dim)),
      rope_(static_cast<std::size_t>(model.qk_rope_head_dim)),
      v_(static_cast<std::size_t>(model.v_head_dim)),
      rank_(static_cast<std::size_t>(model.kv_lora_rank)) {}

Linear Attention::BiasedLinear(const std::string& part, std::uint64_t rows, std::uint64_t cols) {
  Linear linear{modules_.weights().Matrix(name_ + part + ".weight", rows, cols)};
  if (model_.attention_bias) linear.bias = modules_.weights().Vector(name_ + part + ".bias", rows);
  return linear;
}

// In the order in which Run uses them; without those of an indexer.
void Attention::ExpectWeights() {
  ModelWeights& weights = modules_.weights();
  std::vector<WeightRows> expected;
  const auto add = [&](const char* part, std::uint64_t rows, std::uint64_t cols) {
    expected.push_back(weights.Matrix(name_ + part, rows, cols));
  };
  const std::size_t query_rows = heads_ * (nope_ + rope_);
  if (model_.q_lora_rank == 0) {
    add("q_proj.weight", query_rows, model_.hidden_size);
  } else {
    add("q_a_proj.weight", model_.q_lora_rank, model_.hidden_size);
    add("q_b_proj.weight", query_rows, model_.q_lora_rank);
  }
  add("kv_a_proj_with_mqa.weight", rank_ + rope_, model_.hidden_size);
  if (form_ == AttentionForm::kNaive && weights.Has(name_ + "kv_b_proj.weight")) {
    add("kv_b_proj.weight", heads_ * (nope_ + v_), rank_);
  }
  add("o_proj.weight", model_.hidden_size, heads_ * v_);
  weights.Expect(expected);
}

Rows Attention::MakeQueries(const Rows& in, Rows& q_latents) {
  const auto queries = [&](const char* part, std::uint64_t cols) {
    const std::size_t size = nope_ + rope_;
    return modules_.weights()
        .Matrix(name_ + part, all_heads_ * size, cols)
        .Part(first_head_ * size, heads_ * size);
  };
  if (model_.q_lora_rank == 0) {
    return modules_.ApplyLinear({queries("q_proj.weight", model_.hidden_size)}, in);
  }
  const Rows down =
      modules_.ApplyLinear(BiasedLinear("q_a_proj", model_.q_lora_rank, model_.hidden_size), in);
  q_latents = modules_.RmsNorm(name_ + "q_a_layernorm", model_.q_lora_rank, kLatentNormEps, down);
  return modules_.ApplyLinear({queries("q_b_proj.weight", model_.q_lora_rank)}, q_latents);
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
    return weights.MatrixOf(name_ + own, 0, 1, (first_head_ + head) * rows, rows, all_heads_ * rows,
                            rank_);
  }
  return weights.MatrixOf(name_ + "kv_b_proj.weight", 0, 1,
                          (first_head_ + head) * (nope_ + v_) + first, rows,
                          all_heads_ * (nope_ + v_), rank_);
}

WeightRows Attention::KeyRows(std::size_t head) const {
  return RowsOfHead(head, "k_b_proj.weight", 0, nope_);
}

WeightRows Attention::ValueRows(std::size_t head) const {
  return RowsOfHead(head, "v_b_proj.weight", nope_, v_);
}

// Of each row: for every head its key, without the rotary part, and its value.
Rows Attention::KeysAndValues(const Rows& latents) {
  ModelWeights& weights = modules_.weights();
  const std::size_t width = heads_ * (nope_ + v_);
  const std::size_t count = latents.count();
  Rows kv(count, width);
  std::vector<float> scratch;
  const float* const in =
      modules_.InputOf(KeyRows(0), latents.values.data(), count, rank_, scratch);
  std::vector<Product> products;
  if (weights.Has(name_ + "kv_b_proj.weight")) {
    const WeightRows all =
        weights.Matrix(name_ + "kv_b_proj.weight", all_heads_ * (nope_ + v_), rank_);
    products.push_back({all.Part(first_head_ * (nope_ + v_), width), in, rank_, count,
                        kv.values.data(), width, nullptr, latents.values.data()});
  } else {
    for (std::size_t head = 0; head < heads_; ++head) {
      float* const out = kv.values.data() + head * (nope_ + v_);
      products.push_back(
          {KeyRows(head), in, rank_, count, out, width, nullptr, latents.values.data()});
      products.push_back(
          {ValueRows(head), in, rank_, count, out + nope_, width, nullptr, latents.values.data()});
    }
  }
  weights.Multiply(products);
  modules_.Round(kv.values);
  return kv;
}

// The keys and values of every sequence, all made with one read of the weights; `made` holds those
// that the cache does not keep.
std::vector<const float*> Attention::KeysAndValuesOf(LayerCache& cache, Rows& made) {
  if (heads_ == 0) return {};
  const std::size_t width = heads_ * (nope_ + v_);
  Rows latents;
  latents.width = rank_;
  std::vector<std::size_t> firsts;  // in `made`
  for (const SequenceCache& of : cache) {
    firsts.push_back(latents.count());
    const std::size_t kept = of.keys_values.size() / width * rank_;
    Append(of.latents.data() + kept, of.latents.size() - kept, latents.values);
  }
  made = KeysAndValues(latents);
  modules_.Emit(name_ + "kv_b_proj", made);
  std::vector<const float*> all;
  for (std::size_t s = 0; s < cache.size(); ++s) {
    SequenceCache& of = cache[s];
    if (of.kept_positions == 0) {
      all.push_back(made.row(firsts[s]));
      continue;
    }
    const std::size_t end = s + 1 < cache.size() ? firsts[s + 1] : made.count();
    of.keys_values.reserve(of.kept_positions * width);
    Append(made.row(firsts[s]), (end - firsts[s]) * width, of.keys_values);
    all.push_back(of.keys_values.data());
  }
  return all;
}

// Attends with all heads of all rows. `queries` has their rotary parts; a head's own part is the
// first in it of `own`, which may be `out`. `memory` says what a head of a sequence knows.
template <typename Memory>
void Attention::AttendAll(const Rows& queries, const Rows& own,
                          const std::vector<SequenceRows>& sequences, const KeyChoice& keys,
                          const Memory& memory, Rows& out) {
  struct Task {
    std::size_t sequence = 0;
    std::size_t first = 0;  // row of the batch
    std::size_t count = 0;
    std::size_t position = 0;
  };
  if (heads_ == 0) return;
  std::vector<Task> tasks;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const SequenceRows& rows = sequences[s];
    for (std::size_t i = 0; i < rows.count; i += kAttendedRows) {
      tasks.push_back({s, rows.first + i, std::min(kAttendedRows, rows.count - i), rows.past + i});
    }
  }
  const std::size_t own_size = own.width / heads_;
  const std::size_t out_size = out.width / heads_;
  modules_.weights().ForEach(tasks.size() * heads_, [&](std::size_t i) {
    const Task& task = tasks[i / heads_];
    const std::size_t head = i % heads_;
    HeadQueries rows;
    rows.queries = own.row(task.first) + head * own_size;
    rows.query_stride = own.width;
    rows.rope_queries = queries.row(task.first) + head * (nope_ + rope_) + nope_;
    rows.rope_stride = queries.width;
    rows.count = task.count;
    rows.position = task.position;
    rows.chosen = keys.empty() ? nullptr : keys.data() + task.first;
    rows.scale = static_cast<float>(forward_.softmax_scale);
    rows.out = out.row(task.first) + head * out_size;
    rows.out_stride = out.width;
    Attend(rows, memory(task.sequence, head));
  });
}

Rows Attention::AttendNaive(const Rows& queries, const std::vector<SequenceRows>& sequences,
                            LayerCache& cache, const KeyChoice& keys) {
  const std::size_t width = heads_ * (nope_ + v_);
  Rows made;
  const std::vector<const float*> kv = KeysAndValuesOf(cache, made);
  Rows out(queries.count(), heads_ * v_);
  AttendAll(
      queries, queries, sequences, keys,
      [&](std::size_t s, std::size_t head) {
        const float* const of_head = kv[s] + head * (nope_ + v_);
        return HeadMemory{of_head, width,           nope_, cache[s].rope_keys.data(),
                          rope_,   of_head + nope_, width, v_};
      },
      out);
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
  AttendAll(
      queries, in_latents, sequences, keys,
      [&](std::size_t s, std::size_t /*head*/) {
        const float* const latents = cache[s].latents.data();
        return HeadMemory{latents, rank_,   rank_, cache[s].rope_keys.data(),
                          rope_,   latents, rank_, rank_};
      },
      in_latents);
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
  const std::size_t columns = all_heads_ * v_;
  if (!is_part_) {
    return modules_.ApplyLinear(BiasedLinear("o_proj", model_.hidden_size, columns), mixed);
  }
  const WeightRows all =
      modules_.weights().Matrix(name_ + "o_proj.weight", model_.hidden_size, columns);
  return modules_.ApplyLinear({all.Columns(first_head_ * v_, heads_ * v_)}, mixed);
}

}  // namespace dsv3::convert

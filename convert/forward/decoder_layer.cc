#include "convert/forward/decoder_layer.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/forward/ranks.h"
#include "convert/forward/weight_comparison.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/layer_kinds.h"
#include "quant/matmul.h"

namespace dsv3::convert {

DecoderLayer::DecoderLayer(const ModelConfig& model, const ForwardConfig& forward,
                           const Rotary& rotary, AttentionForm form, Modules& modules,
                           std::uint64_t layer)
    : model_(model),
      forward_(forward),
      rotary_(rotary),
      form_(form),
      modules_(modules),
      layer_(layer),
      name_(fmt::format("model.layers.{}.", layer)),
      is_moe_(IsMoeLayer(model, layer)) {}

GatedMlp DecoderLayer::Mlp(const std::string& part, std::uint64_t width) {
  const ModelWeights& weights = modules_.weights();
  const std::string name = name_ + "mlp." + part;
  return {weights.Matrix(name + "gate_proj.weight", width, model_.hidden_size),
          weights.Matrix(name + "up_proj.weight", width, model_.hidden_size),
          weights.Matrix(name + "down_proj.weight", model_.hidden_size, width)};
}

// transformers may keep the experts of a layer in two tensors, gate above up.
GatedMlp DecoderLayer::Expert(std::uint64_t expert) {
  const ModelWeights& weights = modules_.weights();
  const std::string fused = name_ + "mlp.experts.";
  if (!weights.Has(fused + "gate_up_proj")) {
    return Mlp(fmt::format("experts.{}.", expert), model_.moe_intermediate_size);
  }
  const std::uint64_t width = model_.moe_intermediate_size;
  const std::uint64_t experts = model_.n_routed_experts;
  const auto part = [&](std::uint64_t first) {
    return weights.MatrixOf(fused + "gate_up_proj", expert, experts, first, width, 2 * width,
                            model_.hidden_size);
  };
  return {part(0), part(width),
          weights.MatrixOf(fused + "down_proj", expert, experts, 0, model_.hidden_size,
                           model_.hidden_size, width)};
}

std::uint32_t DecoderLayer::RankOf(const GatedMlp& expert) const {
  const Ranks* const ranks = modules_.weights().ranks().get();
  if (ranks == nullptr) return 0;
  std::uint32_t first = std::numeric_limits<std::uint32_t>::max();
  for (const Ranks::Slice& slice : ranks->SlicesOf(expert.down.tensor)) {
    first = std::min(first, slice.rank);
  }
  return first;
}

WeightRows DecoderLayer::RouterWeight() {
  return modules_.weights().Matrix(name_ + "mlp.gate.weight", model_.n_routed_experts,
                                   model_.hidden_size);
}

GatedMlp DecoderLayer::SharedExpert() {
  return Mlp("shared_experts.", model_.n_shared_experts * model_.moe_intermediate_size);
}

// Weights are expected in the order in which they are used.
void DecoderLayer::ExpectMlps(const std::vector<Modules::MlpRows>& mlps) {
  std::vector<WeightRows> weights;
  for (const Modules::MlpRows& one : mlps) {
    weights.push_back(one.mlp.gate);
    weights.push_back(one.mlp.up);
  }
  for (const Modules::MlpRows& one : mlps) weights.push_back(one.mlp.down);
  modules_.weights().Expect(weights);
}

void DecoderLayer::ExpectNextLayer() {
  if (layer_ + 1 >= model_.num_hidden_layers) return;
  Attention(model_, forward_, rotary_, form_, modules_,
            fmt::format("model.layers.{}.self_attn.", layer_ + 1))
      .ExpectWeights();
}

// The weighted outputs of each row's experts, summed in the order of their numbers; of ranks first
// those of each rank, which are then added in the order of the ranks.
Rows DecoderLayer::RoutedSum(const Rows& in, const std::vector<ExpertChoice>& choices,
                             const ExpertPart& part_of) {
  struct Visit {
    std::uint32_t expert = 0;
    std::size_t row = 0;
    float weight = 0;
    std::uint32_t rank = 0;
  };
  std::vector<Visit> visits;
  for (std::size_t row = 0; row < choices.size(); ++row) {
    for (std::size_t i = 0; i < choices[row].experts.size(); ++i) {
      visits.push_back({choices[row].experts[i], row, choices[row].weights[i]});
    }
  }
  std::stable_sort(visits.begin(), visits.end(),
                   [](const Visit& a, const Visit& b) { return a.expert < b.expert; });
  ModelWeights& weights = modules_.weights();
  std::map<std::uint32_t, GatedMlp> experts;
  std::erase_if(visits, [&](const Visit& visit) {
    if (experts.contains(visit.expert)) return false;
    const GatedMlp whole = Expert(visit.expert);
    const std::optional<GatedMlp> part = part_of ? part_of(whole) : whole;
    if (part) experts.emplace(visit.expert, *part);
    return !part;
  });
  Rows gathered(visits.size(), in.width);
  std::vector<std::vector<std::size_t>> visits_of(choices.size());  // of each row, in their order
  std::vector<Modules::MlpRows> mlps;
  for (std::size_t i = 0; i < visits.size(); ++i) {
    visits_of[visits[i].row].push_back(i);
    if (i == 0 || visits[i].expert != visits[i - 1].expert) {
      mlps.push_back({experts.at(visits[i].expert), i, 0});
      visits[i].rank = RankOf(mlps.back().mlp);
    } else {
      visits[i].rank = visits[i - 1].rank;
    }
    ++mlps.back().count;
  }
  if (!part_of) {
    ExpectMlps(mlps);
    ExpectNextLayer();
  }
  weights.ForEach(visits.size(), [&](std::size_t i) {
    std::copy_n(in.row(visits[i].row), in.width, gathered.row(i));
  });
  const Rows outputs = modules_.ApplyMlps(mlps, std::move(gathered));
  Rows sum(in.count(), in.width);
  weights.ForEach(in.count(), [&](std::size_t row) {
    std::vector<std::size_t>& order = visits_of[row];
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return visits[a].rank < visits[b].rank; });
    std::vector<float> part;
    for (std::size_t i = 0; i < order.size();) {
      const std::uint32_t rank = visits[order[i]].rank;
      // The first rank's sum is made in its place.
      if (i > 0) part.assign(in.width, 0);
      float* const target = i == 0 ? sum.row(row) : part.data();
      for (; i < order.size() && visits[order[i]].rank == rank; ++i) {
        quant::AddScaled(visits[order[i]].weight, outputs.row(order[i]), target, in.width);
      }
      for (std::size_t k = 0; k < part.size(); ++k) sum.row(row)[k] += part[k];
    }
  });
  modules_.Round(sum.values);
  return sum;
}

void DecoderLayer::Choose(const Rows& in, std::vector<ExpertChoice>& choices,
                          const std::vector<ExpertChoice>* replay) {
  ModelWeights& weights = modules_.weights();
  const auto experts = static_cast<std::size_t>(model_.n_routed_experts);
  Rows logits(in.count(), experts);
  // In floats whatever activations are, as every engine does it.
  weights.Multiply(Product{RouterWeight(), in.values.data(), in.width, in.count(),
                           logits.values.data(), experts});
  std::vector<float> bias;
  if (model_.router_bias) {
    bias = weights.Vector(name_ + "mlp.gate.e_score_correction_bias", experts);
  }
  choices.resize(in.count());
  for (std::size_t row = 0; row < in.count(); ++row) {
    const std::span<const float> of_row(logits.row(row), experts);
    choices[row] = replay != nullptr ? WeighExperts(forward_, of_row, (*replay)[row].experts)
                                     : ChooseExperts(forward_, model_.n_group,
                                                     model_.num_experts_per_tok, of_row, bias);
  }
  modules_.Emit(name_ + "mlp.gate", logits);
  if (WeightComparison* const comparison = weights.comparison()) {
    comparison->CompareChoices(name_ + "mlp.gate", logits, bias, choices);
  }
}

Rows DecoderLayer::RunExperts(const Rows& in, std::vector<ExpertChoice>& choices,
                              const std::vector<ExpertChoice>* replay) {
  Choose(in, choices, replay);
  Rows sum = RoutedSum(in, choices);
  modules_.Emit(name_ + "mlp.experts", sum);
  if (model_.n_shared_experts > 0) {
    modules_.Add(modules_.ApplyMlp(name_ + "mlp.shared_experts", SharedExpert(), in), sum);
  }
  modules_.Emit(name_ + "mlp", sum);
  return sum;
}

void DecoderLayer::CompareAttention(const Rows& in, const Rows& out, const Batch& batch) {
  WeightComparison* const comparison = modules_.weights().comparison();
  if (comparison->attention_fields().empty()) return;
  const std::string name = name_ + "self_attn";
  if (!comparison->attention_fits()) {
    comparison->RecordAttention(name, nullptr, nullptr);
    return;
  }
  std::size_t longest = 0;
  for (const SequenceRows& sequence : batch.sequences) longest = std::max(longest, sequence.count);
  const ForwardConfig& forward = comparison->b().forward;
  const Rotary rotary(forward, model_.qk_rope_head_dim, longest);
  LayerCache cache(batch.sequences.size());
  KeyChoice keys = batch.keys;
  // This model's weights, which are compared already, and outputs that are not the run's.
  modules_.weights().set_comparison(nullptr);
  Modules quiet(modules_.weights(), modules_.activations());
  const Rows other = Attention(model_, forward, rotary, form_, quiet, name + ".")
                         .Run(in, batch.sequences, HasIndexer(model_, layer_), cache, keys);
  modules_.weights().set_comparison(comparison);
  comparison->RecordAttention(name, &out, &other);
}

void DecoderLayer::Run(Rows& stream, Batch& batch, LayerCache& cache,
                       std::vector<ExpertChoice>& choices,
                       const std::vector<ExpertChoice>* replay) {
  const auto norm = [&](const char* part) {
    return modules_.RmsNorm(name_ + part, model_.hidden_size, forward_.rms_norm_eps, stream);
  };
  const auto add = [&](const Rows& part) {
    modules_.Add(part, stream);
    for (auto& [rank, own] : batch.streams_of_ranks) modules_.Add(part, own);
  };
  Attention attention(model_, forward_, rotary_, form_, modules_, name_ + "self_attn.");
  attention.ExpectWeights();
  if (is_moe_) {
    // Which experts are needed is known only behind the router; the disk has these until then.
    const WeightRows router = RouterWeight();
    modules_.weights().Expect(std::span(&router, 1));
    if (model_.n_shared_experts > 0) ExpectMlps({{{SharedExpert(), 0, 0}}});
  } else {
    ExpectMlps({{{Mlp("", model_.intermediate_size), 0, 0}}});
    ExpectNextLayer();
  }
  const bool has_indexer = HasIndexer(model_, layer_) && replay == nullptr;
  if (has_indexer) batch.keys_of_ranks.clear();
  CopiesDiffer();
  const Rows in = norm("input_layernorm");
  Rows attended = attention.Run(in, batch.sequences, has_indexer, cache, batch.keys);
  if (modules_.weights().comparison() != nullptr) CompareAttention(in, attended, batch);
  const bool streams_differ = !batch.streams_of_ranks.empty();
  if (CopiesDiffer() || streams_differ || !batch.keys_of_ranks.empty()) {
    attended = AttentionOfRanks(stream, batch, has_indexer, cache);
  }
  modules_.Emit(name_ + "self_attn", attended);
  add(attended);
  Rows normed = norm("post_attention_layernorm");
  Rows out;
  if (is_moe_) {
    out = RunExperts(normed, choices, replay);
    if (CopiesDiffer() || streams_differ) out = ExpertsOfRanks(stream, batch, replay);
  } else {
    out = modules_.ApplyMlp(name_ + "mlp", Mlp("", model_.intermediate_size), std::move(normed));
    if (CopiesDiffer() || streams_differ) {
      out = MlpOfRanks(stream, batch, "", model_.intermediate_size);
    }
  }
  add(out);
  modules_.Emit(name_.substr(0, name_.size() - 1), stream);
}

}  // namespace dsv3::convert

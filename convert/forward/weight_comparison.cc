#include "convert/forward/weight_comparison.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "convert/forward/config_differences.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Norms whose eps no config says.
bool HasFixedEps(const std::string& module) {
  return module.ends_with("q_a_layernorm") || module.ends_with("kv_a_layernorm") ||
         module.ends_with("k_norm");
}

// The weight of each expert of a row, 0 for those that were not chosen.
std::vector<float> Dense(const ExpertChoice& choice, std::size_t experts) {
  std::vector<float> weights(experts, 0);
  for (std::size_t i = 0; i < choice.experts.size(); ++i) {
    weights[choice.experts[i]] = choice.weights[i];
  }
  return weights;
}

ErrorSums SumsOf(const Rows& a, const Rows& b) {
  ErrorSums sums;
  for (std::size_t i = 0; i < a.values.size(); ++i) sums.Add(a.values[i], b.values[i]);
  return sums;
}

}  // namespace

WeightComparison::WeightComparison(const ComparedModel& a, const ComparedModel& b)
    : a_(a),
      b_(b),
      map_({a.weights, a.config}, {b.weights, b.config}),
      structure_fields_(StructureDifferences(a.config, b.config)),
      attention_fields_(AttentionDifferences(a.config, a.forward, b.config, b.forward)),
      router_fields_(RouterDifferences(a.config, a.forward, b.config, b.forward)) {}

WeightComparison::Record& WeightComparison::RecordOf(const ModuleRows& module, std::uint32_t tensor,
                                                     bool is_product, std::uint64_t order) {
  const std::string& name = a_.weights.catalog().tensors()[tensor].name;
  const auto [found, is_new] = records_.try_emplace({module.module, name});
  Record& record = found->second;
  found_ = true;
  if (is_new) {
    record.order = order;
    record.difference.module = module.module;
    record.difference.layer = module.layer;
    record.difference.tensor = name;
    record.is_product = is_product;
    record.rows = module.rows;
  }
  return record;
}

void WeightComparison::RecordConfig(const std::string& module, std::vector<std::string> fields,
                                    const ErrorSums* sums, std::uint64_t order) {
  const auto [found, is_new] =
      records_.try_emplace({module, fmt::format("config {}", fmt::join(fields, " "))});
  found_ = true;
  if (!is_new) return;
  Record& record = found->second;
  record.order = order;
  record.difference.module = module;
  record.difference.layer = LayerOfModule(module);
  record.difference.relation = TensorRelation::kConfig;
  record.difference.config = std::move(fields);
  if (sums == nullptr) return;
  record.sums = *sums;
  record.has_sums = true;
}

void WeightComparison::RecordMissing(const ModuleRows& module, std::uint32_t tensor,
                                     std::uint64_t order) {
  if (structure_fields_.empty()) {
    const std::string& name = a_.weights.catalog().tensors()[tensor].name;
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("tensor {} is in MODEL and is missing in OTHER, and config.json of both says "
                    "the same; `dsv3-verify structure` lists what is missing",
                    QuoteForMessage(name)),
        {"", name});
  }
  found_ = true;
  if (structure_recorded_) return;
  structure_recorded_ = true;
  RecordConfig(module.module, structure_fields_, nullptr, order);
}

std::vector<float> WeightComparison::OtherVector(const std::string& module, const NamedVector& mine,
                                                 std::uint64_t order) {
  const std::uint32_t tensor = a_.weights.Find(mine.name);
  const std::uint64_t size = mine.values.size();
  const ModuleRows rows{module, LayerOfModule(module), {tensor, 0, 1, size}};
  if (!b_.weights.Has(mine.name)) {
    RecordMissing(rows, tensor, order);
    return {};
  }
  const formats::Shape& shape = b_.weights.catalog().tensors()[b_.weights.Find(mine.name)].shape;
  if (shape != formats::Shape{size}) {
    RecordOf(rows, tensor, false, order).difference.relation = TensorRelation::kShape;
    return {};
  }
  return b_.weights.Vector(mine.name, size);
}

void WeightComparison::CompareRows(const WeightRows& weight, std::span<const std::uint64_t> rows,
                                   const float* out) {
  const std::uint64_t order = next_order_++;
  const ModuleRows module = ModuleOf(a_.weights, a_.config, weight, false);
  std::vector<ErrorSums> of_row(rows.size());
  std::atomic<bool> differs = false;
  std::vector<OtherRows> whole;
  const RowMap::Result result = map_.Find(module.rows, false, whole);
  if (result == RowMap::Result::kMissing) return RecordMissing(module, weight.tensor, order);
  if (result == RowMap::Result::kShape) {
    RecordOf(module, weight.tensor, false, order).difference.relation = TensorRelation::kShape;
    return;
  }
  a_.weights.ForEach(rows.size(), [&](std::size_t i) {
    std::vector<OtherRows> found;
    const WeightRows row{weight.tensor, weight.first_row + rows[i], 1, weight.cols};
    map_.Find(row, false, found);
    const WeightPanel other = b_.weights.ReadPanel(found.front().rows, 0, 1);
    const float* const mine = out + i * weight.cols;
    for (std::uint64_t k = 0; k < weight.cols; ++k) {
      const float value = other.At(k);
      if (!std::isfinite(value)) b_.weights.FailNotFinite(found.front().rows, 0);
      if (value != mine[k]) differs = true;
      of_row[i].Add(mine[k], value);
    }
  });
  ErrorSums& all = sums_[module.module];
  for (const ErrorSums& one : of_row) all.Add(one);
  if (differs) RecordOf(module, weight.tensor, false, order);
}

void WeightComparison::CompareNorm(const std::string& module,
                                   const std::vector<NamedVector>& vectors, double eps,
                                   const Rows& out, const RunNorm& run) {
  const std::uint64_t order = next_order_++;
  std::vector<NamedVector> others;
  std::vector<const NamedVector*> differing;
  for (const NamedVector& mine : vectors) {
    others.push_back({mine.name, OtherVector(module, mine, order)});
    if (others.back().values.empty()) return;
    if (others.back().values != mine.values) differing.push_back(&mine);
  }
  const double other_eps = HasFixedEps(module) ? eps : b_.forward.rms_norm_eps;
  const bool eps_differs = other_eps != eps && !eps_recorded_;
  if (differing.empty() && !eps_differs) return;
  const Rows other = run(others, other_eps);
  const ErrorSums sums = SumsOf(out, other);
  if (!differing.empty()) sums_[module].Add(sums);
  for (const NamedVector* const one : differing) {
    const std::uint32_t tensor = a_.weights.Find(one->name);
    RecordOf({module, LayerOfModule(module), {tensor, 0, 1, one->values.size()}}, tensor, false,
             order);
  }
  if (!eps_differs) return;
  eps_recorded_ = true;
  const ErrorSums by_eps = differing.empty() ? sums : SumsOf(out, run(vectors, other_eps));
  RecordConfig(module, {"rms_norm_eps"}, &by_eps, order);
}

void WeightComparison::CompareChoices(const std::string& module, const Rows& logits,
                                      const std::vector<float>& bias,
                                      const std::vector<ExpertChoice>& choices) {
  const std::uint64_t order = next_order_++;
  const std::size_t experts = logits.width;
  if (b_.config.n_routed_experts != experts) return;
  const auto run = [&](const std::vector<float>& with_bias, const ComparedModel& with) {
    ErrorSums sums;
    for (std::size_t row = 0; row < logits.count(); ++row) {
      const ExpertChoice other =
          ChooseExperts(with.forward, with.config.n_group, with.config.num_experts_per_tok,
                        {logits.row(row), experts}, with_bias);
      const std::vector<float> x = Dense(choices[row], experts);
      const std::vector<float> y = Dense(other, experts);
      for (std::size_t i = 0; i < experts; ++i) sums.Add(x[i], y[i]);
    }
    return sums;
  };
  if (!bias.empty() && b_.config.router_bias) {
    const std::string name = module + ".e_score_correction_bias";
    const std::vector<float> other = OtherVector(module, {name, bias}, order);
    if (!other.empty() && other != bias) {
      const std::uint32_t tensor = a_.weights.Find(name);
      Record& record =
          RecordOf({module, LayerOfModule(module), {tensor, 0, 1, experts}}, tensor, false, order);
      record.sums.Add(run(other, a_));
      record.has_sums = true;
    }
  }
  if (router_fields_.empty()) return;
  const ErrorSums sums = run(b_.config.router_bias ? bias : std::vector<float>(), b_);
  RecordConfig(module, std::exchange(router_fields_, {}), &sums, order);
}

bool WeightComparison::attention_fits() const {
  const ModelConfig& a = a_.config;
  const ModelConfig& b = b_.config;
  return a.num_attention_heads == b.num_attention_heads &&
         a.qk_nope_head_dim == b.qk_nope_head_dim && a.qk_rope_head_dim == b.qk_rope_head_dim &&
         a.v_head_dim == b.v_head_dim;
}

void WeightComparison::RecordAttention(const std::string& module, const Rows* a, const Rows* b) {
  const ErrorSums sums = a != nullptr && b != nullptr ? SumsOf(*a, *b) : ErrorSums{};
  RecordConfig(module, std::exchange(attention_fields_, {}), a == nullptr ? nullptr : &sums,
               next_order_++);
}

std::vector<WeightComparison::Record> WeightComparison::Records() const {
  std::vector<Record> records;
  for (const auto& [key, record] : records_) {
    records.push_back(record);
    Record& one = records.back();
    if (!one.has_sums && one.difference.relation == TensorRelation::kValues) {
      one.sums = sums_.at(one.difference.module);
      one.has_sums = true;
    }
    if (!one.has_sums) continue;
    one.difference.nmse = one.sums.Nmse();
    one.difference.cosine = one.sums.Cosine();
  }
  std::stable_sort(records.begin(), records.end(),
                   [](const Record& x, const Record& y) { return x.order < y.order; });
  return records;
}

}  // namespace dsv3::convert

#include "convert/forward/weight_comparison.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <set>
#include <tuple>
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

std::uint64_t HashOf(const WeightPanel& values, std::size_t count) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (std::size_t i = 0; i < count; ++i) {
    // + 0 makes one zero of both.
    hash = (hash ^ std::bit_cast<std::uint32_t>(values.At(i) + 0.0F)) * 0x100000001B3;
    hash ^= hash >> 29U;
  }
  return hash;
}

WeightComparison::WeightComparison(const ComparedModel& a, const ComparedModel& b,
                                   ActivationValues activations)
    : a_(a),
      b_(b),
      has_other_(&a.weights != &b.weights),
      map_({a.weights, a.config}, {b.weights, b.config}),
      to_itself_({a.weights, a.config}, {a.weights, a.config}),
      activations_(activations),
      structure_fields_(StructureDifferences(a.config, b.config)),
      attention_fields_(AttentionDifferences(a.config, a.forward, b.config, b.forward)),
      router_fields_(RouterDifferences(a.config, a.forward, b.config, b.forward)) {}

WeightComparison::WeightComparison(const ComparedModel& a)
    : WeightComparison(a, a, ActivationValues::kFloat) {}

OtherWeights WeightComparison::Other(const OtherSide& side) const {
  const ComparedModel& model = side.of_a ? a_ : b_;
  ModelWeights& weights =
      side.rank < 0 ? model.weights : model.weights.OfRank(static_cast<std::uint32_t>(side.rank));
  return {weights, side.of_a ? to_itself_ : map_, model.config, side};
}

std::vector<OtherSide> WeightComparison::DifferingRanks(const WeightRows& rows,
                                                        bool is_product) const {
  std::set<OtherSide> sides;
  const auto add = [&](const ModelWeights& weights, std::uint32_t tensor, bool of_a) {
    for (const std::uint32_t rank : weights.DifferingRanks(tensor)) sides.insert({rank, of_a});
  };
  if (a_.weights.ranks()) add(a_.weights, rows.tensor, true);
  std::vector<OtherRows> runs;
  if (has_other_ && b_.weights.ranks() &&
      map_.Find(rows, is_product, runs) == RowMap::Result::kFound) {
    for (const OtherRows& run : runs) add(b_.weights, run.rows.tensor, false);
  }
  return {sides.begin(), sides.end()};
}

std::vector<OtherSide> WeightComparison::DifferingRanks(
    const std::vector<NamedVector>& vectors) const {
  std::set<OtherSide> sides;
  for (const NamedVector& vector : vectors) {
    const std::vector<OtherSide> found =
        DifferingRanks({a_.weights.Find(vector.name), 0, 1, vector.values.size()}, false);
    sides.insert(found.begin(), found.end());
  }
  return {sides.begin(), sides.end()};
}

WeightComparison::Record& WeightComparison::RecordOf(const ModuleRows& module, std::uint32_t tensor,
                                                     bool is_product, std::uint64_t order,
                                                     const OtherSide& side) {
  const std::string& name = a_.weights.catalog().tensors()[tensor].name;
  const auto [found, is_new] = records_.try_emplace({module.module, name, side});
  Record& record = found->second;
  found_ = true;
  if (is_new) {
    record.order = order;
    record.difference.module = module.module;
    record.difference.layer = module.layer;
    record.difference.tensor = name;
    record.is_product = is_product;
    record.rows = module.rows;
    record.side = side;
  }
  return record;
}

void WeightComparison::RecordConfig(const std::string& module, std::vector<std::string> fields,
                                    const ErrorSums* sums, std::uint64_t order) {
  const auto [found, is_new] =
      records_.try_emplace({module, fmt::format("config {}", fmt::join(fields, " ")), OtherSide{}});
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
                                                 std::uint64_t order, const OtherSide& side) {
  ModelWeights& weights = Other(side).weights;
  const std::uint32_t tensor = a_.weights.Find(mine.name);
  const std::uint64_t size = mine.values.size();
  const ModuleRows rows{module, LayerOfModule(module), {tensor, 0, 1, size}};
  if (!weights.Has(mine.name)) {
    RecordMissing(rows, tensor, order);
    return {};
  }
  const formats::Shape& shape = weights.catalog().tensors()[weights.Find(mine.name)].shape;
  if (shape != formats::Shape{size}) {
    RecordOf(rows, tensor, false, order, side).difference.relation = TensorRelation::kShape;
    return {};
  }
  return weights.Vector(mine.name, size);
}

void WeightComparison::CompareRows(const WeightRows& weight, std::span<const std::uint64_t> rows,
                                   const float* out) {
  const std::uint64_t order = next_order_++;
  const ModuleRows module = ModuleOf(a_.weights, a_.config, weight, false);
  std::vector<OtherRows> whole;
  const RowMap::Result result = map_.Find(module.rows, false, whole);
  if (result == RowMap::Result::kMissing) return RecordMissing(module, weight.tensor, order);
  if (result == RowMap::Result::kShape) {
    RecordOf(module, weight.tensor, false, order, {}).difference.relation = TensorRelation::kShape;
    return;
  }
  if (has_other_) CompareRowsWith({}, module, weight, rows, out, order);
  for (const OtherSide& side : DifferingRanks(module.rows, false)) {
    CompareRowsWith(side, module, weight, rows, out, order);
  }
}

void WeightComparison::CompareRowsWith(const OtherSide& side, const ModuleRows& module,
                                       const WeightRows& weight,
                                       std::span<const std::uint64_t> rows, const float* out,
                                       std::uint64_t order) {
  const OtherWeights other = Other(side);
  const auto cols = static_cast<std::size_t>(weight.cols);
  std::vector<ErrorSums> of_row(rows.size());
  std::atomic<bool> differs = false;
  a_.weights.ForEach(rows.size(), [&](std::size_t i) {
    std::vector<OtherRows> found;
    const WeightRows row{weight.tensor, weight.first_row + rows[i], 1, weight.cols};
    other.map.Find(row, false, found);
    const float* const mine = out + i * cols;
    std::vector<float> values(cols);
    other.weights.ReadPanel(found.front().rows, 0, 1).CopyTo(values.data(), cols);
    other.KeepOwn(found.front().rows, {nullptr, mine}, values.data());
    for (std::size_t k = 0; k < cols; ++k) {
      if (!std::isfinite(values[k])) other.weights.FailNotFinite(found.front().rows, 0);
      if (values[k] != mine[k]) differs = true;
      of_row[i].Add(mine[k], values[k]);
    }
  });
  ErrorSums& all = sums_[{module.module, side}];
  for (const ErrorSums& one : of_row) all.Add(one);
  if (differs) RecordOf(module, weight.tensor, false, order, side);
}

void WeightComparison::CompareNorm(const std::string& module,
                                   const std::vector<NamedVector>& vectors, double eps,
                                   const Rows& out, const RunNorm& run) {
  const std::uint64_t order = next_order_++;
  if (has_other_) CompareNormWith({}, module, vectors, eps, out, run, order);
  for (const OtherSide& side : DifferingRanks(vectors)) {
    CompareNormWith(side, module, vectors, eps, out, run, order);
  }
}

void WeightComparison::CompareNormWith(const OtherSide& side, const std::string& module,
                                       const std::vector<NamedVector>& vectors, double eps,
                                       const Rows& out, const RunNorm& run, std::uint64_t order) {
  std::vector<NamedVector> others;
  std::vector<const NamedVector*> differing;
  for (const NamedVector& mine : vectors) {
    others.push_back({mine.name, OtherVector(module, mine, order, side)});
    if (others.back().values.empty()) return;
    if (others.back().values != mine.values) differing.push_back(&mine);
  }
  const bool fixed_eps = HasFixedEps(module) || side != OtherSide{};
  const double other_eps = fixed_eps ? eps : b_.forward.rms_norm_eps;
  const bool eps_differs = other_eps != eps && !eps_recorded_;
  if (differing.empty() && !eps_differs) return;
  const Rows other = run(others, other_eps);
  const ErrorSums sums = SumsOf(out, other);
  if (!differing.empty()) sums_[{module, side}].Add(sums);
  for (const NamedVector* const one : differing) {
    const std::uint32_t tensor = a_.weights.Find(one->name);
    RecordOf({module, LayerOfModule(module), {tensor, 0, 1, one->values.size()}}, tensor, false,
             order, side);
  }
  if (!eps_differs) return;
  eps_recorded_ = true;
  const ErrorSums by_eps = differing.empty() ? sums : SumsOf(out, run(vectors, other_eps));
  RecordConfig(module, {"rms_norm_eps"}, &by_eps, order);
}

void WeightComparison::CompareBiasWith(
    const OtherSide& side, const std::string& module, const NamedVector& bias,
    const std::function<ErrorSums(const std::vector<float>&)>& run, std::uint64_t order) {
  const std::vector<float> other = OtherVector(module, bias, order, side);
  if (other.empty() || other == bias.values) return;
  const std::uint32_t tensor = a_.weights.Find(bias.name);
  Record& record = RecordOf({module, LayerOfModule(module), {tensor, 0, 1, other.size()}}, tensor,
                            false, order, side);
  record.sums.Add(run(other));
  record.has_sums = true;
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
  if (!bias.empty()) {
    const NamedVector mine{module + ".e_score_correction_bias", bias};
    const auto with_bias = [&](const std::vector<float>& other) { return run(other, a_); };
    if (has_other_ && b_.config.router_bias) CompareBiasWith({}, module, mine, with_bias, order);
    for (const OtherSide& side : DifferingRanks(std::vector<NamedVector>{mine})) {
      CompareBiasWith(side, module, mine, with_bias, order);
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
      one.sums = sums_.at({one.difference.module, one.side});
      one.has_sums = true;
      // What was not computed for the rank is as in A.
      const auto all = sums_.find({one.difference.module, OtherSide{}});
      const double rest = all == sums_.end() ? 0 : all->second.a - one.sums.a;
      if (one.side != OtherSide{} && rest > 0) one.sums.Add(ErrorSums{0, rest, rest, rest});
    }
    if (!one.has_sums) continue;
    one.difference.nmse = one.sums.Nmse();
    one.difference.cosine = one.sums.Cosine();
  }
  std::stable_sort(records.begin(), records.end(), [](const Record& x, const Record& y) {
    return std::tie(x.order, x.side) < std::tie(y.order, y.side);
  });
  return records;
}

}  // namespace dsv3::convert

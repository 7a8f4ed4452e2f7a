#include "convert/recipes/gguf_tensors.h"

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "convert/layouts/gguf_names.h"
#include "convert/model/layer_kinds.h"
#include "convert/model/tensor_match.h"
#include "convert/plan/slice_expression.h"
#include "convert/plan/transpose_expression.h"
#include "convert/recipes/gguf_tensors_v4.h"

namespace dsv3::convert {
namespace {

using formats::Shape;

class TensorPlanner {
 public:
  TensorPlanner(const OpenedModel& model, const GgufTarget& target,
                const std::vector<ScaledWeight>& weights, const GgufWeightTypes& types)
      : config_(model.config),
        layers_(config_.num_hidden_layers + target.mtp_layers),
        weights_(model, weights, types, target.architecture) {}

  GgufTensors Make(const std::vector<std::uint32_t>& dropped) {
    const std::span<const GgufNamePair> outside = names_.outside;
    AddPair(outside.front());  // the embedding
    for (std::uint64_t layer = 0; layer < layers_; ++layer) AddLayer(layer);
    for (const GgufNamePair& pair : outside.subspan(1)) {
      if (config_.tie_word_embeddings && pair.model == kHeadName) {
        Drop(std::string(pair.model));
      } else {
        AddPair(pair);
      }
    }
    for (const std::uint32_t i : dropped) weights_.Drop(i);
    result_.left_out = weights_.LeftOut([&](std::string_view name) {
      const std::optional<std::uint64_t> layer = LayerOf(name, weights_.prefix);
      return (layer && *layer >= layers_) || !name.starts_with(weights_.prefix);
    });
    result_.converted = weights_.converted;
    result_.kept = std::move(weights_.kept);
    return std::move(result_);
  }

 private:
  void AddPair(const GgufNamePair& pair) { Add(std::string(pair.model), std::string(pair.gguf)); }

  void AddLayer(std::uint64_t layer) {
    const std::string of = names_.LayerPrefix(layer);
    const std::string to = GgufLayerPrefix(layer);
    for (const GgufNamePair& pair : names_.layer) {
      const std::string name = of + std::string(pair.model);
      if (weights_.Find(name)) Add(name, to + std::string(pair.gguf));
    }
    AddKvB(of + std::string(kKvBName), to);
    if (!IsMoeLayer(config_, layer)) return;
    for (const GgufNamePair& pair : names_.expert) AddExperts(layer, to, pair);
  }

  void Put(std::string name, GgufWeights::Made made) {
    result_.tensors.push_back(
        {std::move(name), made.type, std::move(made.shape), std::move(made.bytes)});
  }

  void Add(const std::string& name, const std::string& gguf) {
    Put(gguf, weights_.Whole(weights_.Need(name), gguf));
  }

  // kv_b_proj has for each head the rows that make keys, then those that make values; or the two
  // are apart already. The file has both apart, the keys' transposed.
  void AddKvB(const std::string& name, const std::string& to) {
    const std::uint64_t key_rows = config_.qk_nope_head_dim;
    const std::uint64_t value_rows = config_.v_head_dim;
    const std::optional<KvHalves> halves = weights_.FindHalves(name);
    const ExpressionPtr keys = weights_.ToBeCut(halves ? halves->keys : weights_.Need(name));
    const ExpressionPtr values = halves ? weights_.ToBeCut(halves->values) : keys;
    const std::uint64_t beside = halves ? 0 : 1;  // whether a head's rows lie beside each other
    GgufWeights::Made k_b = weights_.Encoded(
        TransposeMatrices(RowsOfHeads(keys, 0, key_rows, beside * value_rows)), kGgufKeysName);
    GgufWeights::Made v_b =
        weights_.Encoded(RowsOfHeads(values, beside * key_rows, value_rows, 0), kGgufValuesName);
    weights_.Count(*keys, k_b.type);
    if (halves) weights_.Count(*values, v_b.type);
    Put(to + std::string(kGgufKeysName), std::move(k_b));
    Put(to + std::string(kGgufValuesName), std::move(v_b));
  }

  // The matrices of all heads, each of `rows` rows of the value, which has `before` rows before
  // and `behind` rows behind each.
  ExpressionPtr RowsOfHeads(const ExpressionPtr& value, std::uint64_t before, std::uint64_t rows,
                            std::uint64_t behind) const {
    std::vector<SlicePart> parts;
    for (std::uint64_t head = 0; head < config_.num_attention_heads; ++head) {
      const std::uint64_t begin = head * (before + rows + behind) + before;
      parts.push_back({value, {begin, begin + rows, 0, config_.kv_lora_rank}});
    }
    return std::make_shared<SliceExpression>(
        value->dtype(), Shape{config_.num_attention_heads, rows, config_.kv_lora_rank},
        std::move(parts));
  }

  void AddExperts(std::uint64_t layer, const std::string& to, const GgufNamePair& pair) {
    const std::string gguf = to + std::string(pair.gguf);
    const std::string first = names_.ExpertName(layer, 0, pair.model);
    if (const std::optional<std::uint32_t> fused = weights_.FindFused(first)) {
      return AddFused(*fused, gguf, pair.model);
    }
    std::vector<std::uint32_t> experts;
    for (std::uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      experts.push_back(weights_.Need(names_.ExpertName(layer, expert, pair.model)));
    }
    Put(gguf, weights_.Stacked(experts, gguf));
  }

  // transformers has all experts of a layer in two tensors: each expert's rows of gate, then those
  // of up, and down.
  void AddFused(std::uint32_t fused, const std::string& gguf, std::string_view matrix) {
    if (matrix.starts_with("down")) return Put(gguf, weights_.Whole(fused, gguf));
    const bool is_up = matrix.starts_with("up");
    const ExpressionPtr value = weights_.ValueOf(fused);
    const std::uint64_t rows = config_.moe_intermediate_size;
    std::vector<SlicePart> parts;
    for (std::uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      const std::uint64_t begin = (2 * expert + (is_up ? 1 : 0)) * rows;
      parts.push_back({value, {begin, begin + rows, 0, config_.hidden_size}});
    }
    GgufWeights::Made made = weights_.Encoded(
        std::make_shared<SliceExpression>(
            value->dtype(), Shape{config_.n_routed_experts, rows, config_.hidden_size},
            std::move(parts)),
        gguf);
    if (!is_up) weights_.Count(*value, made.type);
    Put(gguf, std::move(made));
  }

  void Drop(const std::string& name) {
    if (const std::optional<std::uint32_t> i = weights_.Find(name)) weights_.Drop(*i);
  }

  const GgufNames& names_ = V3GgufNames();
  const ModelConfig& config_;
  const std::uint64_t layers_;  // main layers and the MTP layers that the file holds
  GgufWeights weights_;
  GgufTensors result_;
};

}  // namespace

GgufTensors PlanGgufTensors(const OpenedModel& model, const GgufTarget& target,
                            const std::vector<ScaledWeight>& weights,
                            const std::vector<std::uint32_t>& dropped,
                            const GgufWeightTypes& types) {
  if (target.architecture == GgufArchitecture::kDeepSeek4) {
    return PlanV4GgufTensors(model, weights, dropped, types);
  }
  return TensorPlanner(model, target, weights, types).Make(dropped);
}

}  // namespace dsv3::convert

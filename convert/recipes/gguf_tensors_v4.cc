#include "convert/recipes/gguf_tensors_v4.h"

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/recipes/gguf_architecture.h"

namespace dsv3::convert {
namespace {

// What becomes of a tensor.
enum class Kind { kWeight, kStored, kTable };

struct V4Name {
  std::string_view model;
  std::string_view gguf;
  Kind kind = Kind::kStored;
};

constexpr std::array<V4Name, 5> kOutside = {{{"norm.weight", "output_norm.weight"},
                                             {"head.weight", "output.weight"},
                                             {"hc_head_fn", "output_hc_fn.weight"},
                                             {"hc_head_base", "output_hc_base.weight"},
                                             {"hc_head_scale", "output_hc_scale.weight"}}};

// Tensors of a layer: behind "layers.N." and behind "blk.N.", where the model has them.
constexpr std::array<V4Name, 33> kLayer = {{
    {"attn_norm.weight", "attn_norm.weight"},
    {"attn.attn_sink", "attn_sinks.weight"},
    {"attn.wq_a.weight", "attn_q_a.weight", Kind::kWeight},
    {"attn.q_norm.weight", "attn_q_a_norm.weight"},
    {"attn.wq_b.weight", "attn_q_b.weight", Kind::kWeight},
    {"attn.wkv.weight", "attn_kv.weight", Kind::kWeight},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight"},
    {"attn.wo_a.weight", "attn_output_a.weight", Kind::kWeight},
    {"attn.wo_b.weight", "attn_output_b.weight", Kind::kWeight},
    {"attn.compressor.ape", "attn_compressor_ape.weight"},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight"},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight"},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight"},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", Kind::kWeight},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight"},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight"},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight"},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight"},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight"},
    {"hc_attn_fn", "hc_attn_fn.weight"},
    {"hc_attn_base", "hc_attn_base.weight"},
    {"hc_attn_scale", "hc_attn_scale.weight"},
    {"ffn_norm.weight", "ffn_norm.weight"},
    {"hc_ffn_fn", "hc_ffn_fn.weight"},
    {"hc_ffn_base", "hc_ffn_base.weight"},
    {"hc_ffn_scale", "hc_ffn_scale.weight"},
    {"ffn.gate.weight", "ffn_gate_inp.weight"},
    {"ffn.gate.bias", "exp_probs_b.bias"},
    {"ffn.gate.bias_vl", "exp_probs_b_vl.bias"},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", Kind::kTable},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight", Kind::kWeight},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight", Kind::kWeight},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight", Kind::kWeight},
}};

// The matrices of an expert.
constexpr std::array<V4Name, 3> kExpert = {
    {{"w1", "ffn_gate_exps.weight"}, {"w2", "ffn_down_exps.weight"}, {"w3", "ffn_up_exps.weight"}}};

constexpr std::string_view kMtp = "mtp.";

class V4TensorPlanner {
 public:
  V4TensorPlanner(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                  const GgufWeightTypes& types)
      : config_(model.config), weights_(model, weights, types) {}

  GgufTensors Make(const std::vector<std::uint32_t>& dropped) {
    Add({"embed.weight", "token_embd.weight"}, "", "");
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) AddLayer(layer);
    for (const V4Name& name : kOutside) Add(name, "", "");
    for (const std::uint32_t i : dropped) weights_.Drop(i);
    result_.left_out = weights_.LeftOut(
        [&](std::string_view name) {
          return name.starts_with(kMtp) || !name.starts_with(weights_.prefix);
        },
        GgufArchitecture::kDeepSeek4);
    result_.converted = weights_.converted;
    result_.kept = std::move(weights_.kept);
    return std::move(result_);
  }

 private:
  void AddLayer(std::uint64_t layer) {
    const std::string of = fmt::format("layers.{}.", layer);
    const std::string to = fmt::format("blk.{}.", layer);
    // A table gives the experts there, so that the router's bias says nothing.
    if (layer < config_.v4->num_hash_layers) {
      if (const auto bias = weights_.Find(of + "ffn.gate.bias")) weights_.Drop(*bias);
    }
    for (const V4Name& name : kLayer) {
      const std::optional<std::uint32_t> tensor = weights_.Find(of + std::string(name.model));
      if (tensor && !weights_.IsUsed(*tensor)) Add(name, of, to);
    }
    for (const V4Name& matrix : kExpert) {
      std::vector<std::uint32_t> experts;
      for (std::uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
        experts.push_back(
            weights_.Need(fmt::format("{}ffn.experts.{}.{}.weight", of, expert, matrix.model)));
      }
      const std::string gguf = to + std::string(matrix.gguf);
      Put(gguf, weights_.Stacked(experts, gguf));
    }
  }

  void Add(const V4Name& name, const std::string& of, const std::string& to) {
    const std::uint32_t tensor = weights_.Need(of + std::string(name.model));
    const std::string gguf = to + std::string(name.gguf);
    switch (name.kind) {
      case Kind::kWeight:
        return Put(gguf, weights_.Whole(tensor, gguf));
      case Kind::kStored:
        return Put(gguf, weights_.Stored(tensor, gguf));
      case Kind::kTable:
        return Put(gguf, weights_.Table(tensor));
    }
  }

  void Put(std::string name, GgufWeights::Made made) {
    result_.tensors.push_back(
        {std::move(name), made.type, std::move(made.shape), std::move(made.bytes)});
  }

  const ModelConfig& config_;
  GgufWeights weights_;
  GgufTensors result_;
};

}  // namespace

GgufTensors PlanV4GgufTensors(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                              const std::vector<std::uint32_t>& dropped,
                              const GgufWeightTypes& types) {
  return V4TensorPlanner(model, weights, types).Make(dropped);
}

}  // namespace dsv3::convert

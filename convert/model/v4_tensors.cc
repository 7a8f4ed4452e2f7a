#include "convert/model/v4_tensors.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "convert/model/config_fields-inl.h"
#include "convert/model/name_scope.h"

namespace dsv3::convert {
namespace {

using Dims = std::initializer_list<std::uint64_t>;
using Visit = std::function<void(const ExpectedTensorView&)>;
using Json = ConfigFields::Json;

// The compressors of this ratio see overlapping windows, and have indexers beside them.
constexpr std::uint64_t kIndexedRatio = 4;

// How many positions the compressor of a layer, main or MTP, joins; 0: the layer has none.
std::uint64_t CompressRatio(const ModelConfig& config, std::uint64_t layer) {
  const std::vector<std::uint64_t>& ratios = config.v4->compress_ratios;
  // Some configs write 1 for none.
  return layer < ratios.size() && ratios[layer] > 1 ? ratios[layer] : 0;
}

class V4Walk {
 public:
  V4Walk(const ModelConfig& config, std::string_view prefix, const Visit& visit)
      : c_(config), v4_(*config.v4), name_(prefix), visit_(visit) {}

  void Run() {
    Emit("embed.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kEmbedding);
    for (std::uint64_t i = 0; i < c_.num_hidden_layers; ++i) {
      const NameScope scope(name_, "layers.", i);
      Layer(i);
    }
    Emit("norm.weight", {c_.hidden_size}, TensorRole::kNorm);
    if (!c_.tie_word_embeddings) {
      Emit("head.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kHead);
    }
    StreamsOfHead();
    if (v4_.has_draft) return;
    mtp_ = true;
    for (std::uint64_t i = 0; i < c_.num_nextn_predict_layers; ++i) {
      const NameScope scope(name_, "mtp.", i);
      Layer(c_.num_hidden_layers + i);
    }
  }

 private:
  void Emit(std::string_view part, Dims dims, TensorRole role) {
    const NameScope scope(name_, part);
    visit_({name_, {dims.begin(), dims.size()}, role, layer_, mtp_});
  }
  void Norm(std::string_view part, std::uint64_t size) { Emit(part, {size}, TensorRole::kNorm); }

  void Layer(std::uint64_t index) {
    layer_ = static_cast<std::uint32_t>(index);
    Norm("attn_norm.weight", c_.hidden_size);
    Attention(CompressRatio(c_, index));
    Norm("ffn_norm.weight", c_.hidden_size);
    Experts(index);
    Streams("hc_attn");
    Streams("hc_ffn");
    if (mtp_) MtpExtras();
    layer_ = ExpectedTensor::kNoLayer;
  }

  void Attention(std::uint64_t ratio) {
    const NameScope scope(name_, "attn.");
    const auto role = TensorRole::kAttentionLinear;
    const std::uint64_t width = c_.num_attention_heads * v4_.head_dim;
    const std::uint64_t projected = v4_.o_groups * v4_.o_lora_rank;
    Emit("attn_sink", {c_.num_attention_heads}, TensorRole::kF32Parameter);
    Emit("wq_a.weight", {c_.q_lora_rank, c_.hidden_size}, role);
    Norm("q_norm.weight", c_.q_lora_rank);
    Emit("wq_b.weight", {width, c_.q_lora_rank}, role);
    Emit("wkv.weight", {v4_.head_dim, c_.hidden_size}, role);
    Norm("kv_norm.weight", v4_.head_dim);
    Emit("wo_a.weight", {projected, width / v4_.o_groups}, role);
    Emit("wo_b.weight", {c_.hidden_size, projected}, role);
    if (ratio == 0) return;
    Compressor("compressor.", ratio, v4_.head_dim);
    if (ratio == kIndexedRatio) Indexer(ratio);
  }

  void Indexer(std::uint64_t ratio) {
    const NameScope scope(name_, "indexer.");
    Emit("wq_b.weight", {c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank},
         TensorRole::kAttentionLinear);
    Emit("weights_proj.weight", {c_.index_n_heads, c_.hidden_size}, TensorRole::kUnquantizedLinear);
    Compressor("compressor.", ratio, c_.index_head_dim);
  }

  void Compressor(std::string_view part, std::uint64_t ratio, std::uint64_t head_dim) {
    const NameScope scope(name_, part);
    const std::uint64_t windows = ratio == kIndexedRatio ? 2 : 1;
    const auto role = TensorRole::kUnquantizedLinear;
    Emit("ape", {ratio, windows * head_dim}, TensorRole::kF32Parameter);
    Emit("wkv.weight", {windows * head_dim, c_.hidden_size}, role);
    Emit("wgate.weight", {windows * head_dim, c_.hidden_size}, role);
    Norm("norm.weight", head_dim);
  }

  void Experts(std::uint64_t index) {
    const NameScope scope(name_, "ffn.");
    Emit("gate.weight", {c_.n_routed_experts, c_.hidden_size}, TensorRole::kRouter);
    if (index < v4_.num_hash_layers) {
      Emit("gate.tid2eid", {c_.vocab_size, c_.num_experts_per_tok}, TensorRole::kExpertTable);
    } else if (c_.router_bias) {
      Emit("gate.bias", {c_.n_routed_experts}, TensorRole::kRouterBias);
    }
    if (c_.n_shared_experts > 0) {
      Mlp("shared_experts.", c_.n_shared_experts * c_.moe_intermediate_size,
          TensorRole::kMlpLinear);
    }
    for (std::uint64_t e = 0; e < c_.n_routed_experts; ++e) {
      const NameScope expert(name_, "experts.", e);
      Mlp("", c_.moe_intermediate_size, TensorRole::kExpertLinear);
    }
  }

  void Mlp(std::string_view part, std::uint64_t width, TensorRole role) {
    const NameScope scope(name_, part);
    Emit("w1.weight", {width, c_.hidden_size}, role);
    Emit("w2.weight", {c_.hidden_size, width}, role);
    Emit("w3.weight", {width, c_.hidden_size}, role);
  }

  // What mixes the residual streams before and after a part of a layer.
  void Streams(std::string_view part) {
    const NameScope scope(name_, part);
    const std::uint64_t mixes = (2 + v4_.hc_mult) * v4_.hc_mult;
    StreamTensors(mixes, 3);
  }
  void StreamsOfHead() {
    const NameScope scope(name_, "hc_head");
    StreamTensors(v4_.hc_mult, 1);
  }
  void StreamTensors(std::uint64_t mixes, std::uint64_t scales) {
    const auto role = TensorRole::kF32Parameter;
    Emit("_fn", {mixes, v4_.hc_mult * c_.hidden_size}, role);
    Emit("_base", {mixes}, role);
    Emit("_scale", {scales}, role);
  }

  void MtpExtras() {
    Norm("enorm.weight", c_.hidden_size);
    Norm("hnorm.weight", c_.hidden_size);
    Emit("e_proj.weight", {c_.hidden_size, c_.hidden_size}, TensorRole::kMlpLinear);
    Emit("h_proj.weight", {c_.hidden_size, c_.hidden_size}, TensorRole::kMlpLinear);
    Norm("norm.weight", c_.hidden_size);
    StreamsOfHead();
  }

  const ModelConfig& c_;
  const V4Dimensions& v4_;
  std::string name_;
  const Visit& visit_;
  std::uint32_t layer_ = ExpectedTensor::kNoLayer;
  bool mtp_ = false;
};

std::vector<std::uint64_t> ReadRatios(const ConfigFields& fields, const ModelConfig& config) {
  constexpr const char* kName = "compress_ratios";
  const Json* const value = fields.Find(kName);
  if (value == nullptr) {
    fields.Fail(
        fmt::format("lacks the field '{}', which this model_type needs; take the "
                    "config.json that belongs to the weights",
                    fields.PathOf(kName)));
  }
  const auto is_ratio = [](const Json& item) {
    return item.is_number_unsigned() && item.get<std::uint64_t>() <= kMaxDimension;
  };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), is_ratio)) {
    fields.Wrong(kName, "an array with a number for each layer", *value);
  }
  if (value->size() < config.num_hidden_layers) {
    fields.Fail(
        fmt::format("the field '{}' has {} entries, but num_hidden_layers is {}; the two must "
                    "agree, so take the config.json that belongs to the weights",
                    fields.PathOf(kName), value->size(), config.num_hidden_layers));
  }
  return value->get<std::vector<std::uint64_t>>();
}

}  // namespace

void ReadV4(const ConfigFields& fields, ModelConfig& config) {
  V4Dimensions& v4 = *config.v4;
  // Where other models may have none of these, this one does not.
  config.q_lora_rank = fields.Dimension("q_lora_rank", nullptr);
  config.n_routed_experts = fields.Dimension("n_routed_experts", nullptr);
  config.num_experts_per_tok = fields.Dimension("num_experts_per_tok", nullptr);
  v4.head_dim = fields.Dimension("head_dim", nullptr);
  v4.o_groups = fields.Dimension("o_groups", nullptr);
  v4.o_lora_rank = fields.Dimension("o_lora_rank", nullptr);
  v4.hc_mult = fields.Dimension("hc_mult", nullptr);
  v4.num_hash_layers = fields.Count("num_hash_layers", 0);
  v4.compress_ratios = ReadRatios(fields, config);
  v4.has_draft = fields.Find("dspark_block_size") != nullptr;
  config.v_head_dim = v4.head_dim;
  if (config.num_attention_heads % v4.o_groups != 0) {
    fields.Fail(
        fmt::format("'o_groups' is {}, which does not divide the {} heads of "
                    "'num_attention_heads'; take the config.json that belongs to the weights",
                    v4.o_groups, config.num_attention_heads));
  }
  const std::uint64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (std::uint64_t layer = 0; layer < layers; ++layer) {
    config.indexer_layers.push_back(CompressRatio(config, layer) == kIndexedRatio);
  }
  const auto any = std::find(config.indexer_layers.begin(), config.indexer_layers.end(), true);
  if (any == config.indexer_layers.end()) return;
  config.index_n_heads = fields.Dimension("index_n_heads", nullptr);
  config.index_head_dim = fields.Dimension("index_head_dim", nullptr);
}

void VisitV4Tensors(const ModelConfig& config, std::string_view prefix, const Visit& visit) {
  V4Walk(config, prefix, visit).Run();
}

}  // namespace dsv3::convert

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

constexpr const char* kRatios = "compress_ratios";
// The fields that transformers 5 writes in place of compress_ratios and num_hash_layers.
constexpr const char* kLayerTypes = "layer_types";
constexpr const char* kRates = "compress_rates";
constexpr const char* kMlpTypes = "mlp_layer_types";
constexpr std::string_view kSliding = "sliding_attention";
constexpr std::string_view kIndexed = "compressed_sparse_attention";
constexpr std::string_view kCompressed = "heavily_compressed_attention";
constexpr std::string_view kHashMoe = "hash_moe";

constexpr std::string_view kInModel = "model.";

// How many positions the compressor of a layer, main or MTP, joins; 0: the layer has none.
std::uint64_t CompressRatio(const ModelConfig& config, std::uint64_t layer) {
  const std::vector<std::uint64_t>& ratios = config.v4->compress_ratios;
  // Some configs write 1 for none.
  return layer < ratios.size() && ratios[layer] > 1 ? ratios[layer] : 0;
}

class V4Walk {
 public:
  V4Walk(const ModelConfig& config, std::string_view prefix, const Visit& visit)
      : c_(config),
        v4_(*config.v4),
        prefix_(prefix),
        is_renamed_(IsV4PrefixOfTransformers(prefix)),
        name_(is_renamed_ ? "" : prefix),
        visit_(visit) {}

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
    if (v4_.has_draft || is_renamed_) return;
    mtp_ = true;
    for (std::uint64_t i = 0; i < c_.num_nextn_predict_layers; ++i) {
      const NameScope scope(name_, "mtp.", i);
      Layer(c_.num_hidden_layers + i);
    }
  }

 private:
  void Emit(std::string_view part, Dims dims, TensorRole role) {
    const NameScope scope(name_, part);
    const std::string renamed = is_renamed_ ? V4Name(prefix_, name_) : std::string();
    visit_({is_renamed_ ? renamed : name_, {dims.begin(), dims.size()}, role, layer_, mtp_});
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
    if (ratio == v4_.indexed_ratio) Indexer(ratio);
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
    const std::uint64_t windows = ratio == v4_.indexed_ratio ? 2 : 1;
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
  const std::string_view prefix_;
  const bool is_renamed_;
  std::string name_;  // that of the releases, with the prefix where it is no other
  const Visit& visit_;
  std::uint32_t layer_ = ExpectedTensor::kNoLayer;
  bool mtp_ = false;
};

[[noreturn]] void FailLength(const ConfigFields& fields, const char* name, std::size_t entries,
                             const ModelConfig& config) {
  fields.Fail(
      fmt::format("the field '{}' has {} entries, but num_hidden_layers is {}; the two must agree, "
                  "so take the config.json that belongs to the weights",
                  fields.PathOf(name), entries, config.num_hidden_layers));
}

// A field of transformers with a text for each layer.
std::vector<std::string> ReadTypes(const ConfigFields& fields, const char* name, const Json& value,
                                   const ModelConfig& config) {
  const auto is_text = [](const Json& item) { return item.is_string(); };
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_text)) {
    fields.Wrong(name, "an array with a string for each layer", value);
  }
  if (value.size() != config.num_hidden_layers) FailLength(fields, name, value.size(), config);
  return value.get<std::vector<std::string>>();
}

// The rate of the layers of one type: an entry of compress_rates, or transformers' default.
std::uint64_t RateOf(const ConfigFields& fields, std::string_view type) {
  const Json* const rates = fields.Find(kRates);
  if (rates == nullptr || rates->is_null()) return type == kIndexed ? 4 : 128;
  const auto rate = rates->is_object() ? rates->find(type) : rates->end();
  if (rate == rates->end() || !rate->is_number_unsigned() || *rate < 2 || *rate > kMaxDimension) {
    fields.Wrong(kRates, fmt::format("an object with a number above 1 for {}", type), *rates);
  }
  return rate->get<std::uint64_t>();
}

// Fills compress_ratios and indexed_ratio from layer_types.
void ReadLayerTypes(const ConfigFields& fields, const Json& value, ModelConfig& config) {
  V4Dimensions& v4 = *config.v4;
  const std::vector<std::string> types = ReadTypes(fields, kLayerTypes, value, config);
  for (const std::string& type : types) {
    if (type != kSliding && type != kIndexed && type != kCompressed) {
      fields.Wrong(kLayerTypes, fmt::format("of {}, {} and {}", kSliding, kIndexed, kCompressed),
                   type);
    }
    v4.compress_ratios.push_back(type == kSliding ? 0 : RateOf(fields, type));
    if (type == kIndexed) v4.indexed_ratio = v4.compress_ratios.back();
  }
  // The ratio alone says what a layer has.
  for (std::size_t layer = 0; layer < types.size(); ++layer) {
    if (types[layer] == kCompressed && v4.compress_ratios[layer] == v4.indexed_ratio) {
      fields.Wrong(kRates, fmt::format("another number for {} than for {}", kCompressed, kIndexed),
                   *fields.Find(kRates));
    }
  }
}

void ReadRatios(const ConfigFields& fields, ModelConfig& config) {
  const Json* const value = fields.Find(kRatios);
  const Json* const types = fields.Find(kLayerTypes);
  if (value == nullptr && types != nullptr) return ReadLayerTypes(fields, *types, config);
  if (value == nullptr) {
    fields.Fail(
        fmt::format("lacks the field '{}', which this model_type needs; take the "
                    "config.json that belongs to the weights",
                    fields.PathOf(kRatios)));
  }
  const auto is_ratio = [](const Json& item) {
    return item.is_number_unsigned() && item.get<std::uint64_t>() <= kMaxDimension;
  };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), is_ratio)) {
    fields.Wrong(kRatios, "an array with a number for each layer", *value);
  }
  if (value->size() < config.num_hidden_layers) {
    FailLength(fields, kRatios, value->size(), config);
  }
  config.v4->compress_ratios = value->get<std::vector<std::uint64_t>>();
}

// The layers in which a table gives a token's experts, which come first.
std::uint64_t ReadHashLayers(const ConfigFields& fields, const ModelConfig& config) {
  constexpr const char* kNumber = "num_hash_layers";
  const Json* const value = fields.Find(kMlpTypes);
  if (fields.Find(kNumber) != nullptr || value == nullptr) return fields.Count(kNumber, 0);
  const std::vector<std::string> types = ReadTypes(fields, kMlpTypes, *value, config);
  const auto is_hashed = [](const std::string& type) { return type == kHashMoe; };
  const auto behind = std::find_if_not(types.begin(), types.end(), is_hashed);
  if (!std::all_of(behind, types.end(), [](const std::string& type) { return type == "moe"; })) {
    fields.Wrong(kMlpTypes, fmt::format("of {} first and then moe", kHashMoe), *value);
  }
  return static_cast<std::uint64_t>(behind - types.begin());
}

}  // namespace

bool HasV4NamesOfTransformers(const Catalog& catalog, std::string_view prefix) {
  const std::string model = std::string(prefix) + std::string(kInModel);
  const auto has = [&](std::string_view name) {
    return catalog.Find(model + std::string(name)) != Catalog::kNone;
  };
  // Its first layers may lie in a shard that is missing.
  return has("layers.0.attn_norm.weight") ||
         (has("hc_head.hc_fn") && !has("layers.0.input_layernorm.weight"));
}

std::uint32_t FindV4ModuleName(const Catalog& catalog) {
  const std::vector<CatalogTensor>& tensors = catalog.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(), [](const CatalogTensor& tensor) {
    const std::string_view name = tensor.name;
    return name.ends_with(".attn_hc.fn") || name.ends_with(".self_attn.kv_proj.weight");
  });
  return found == tensors.end() ? Catalog::kNone
                                : static_cast<std::uint32_t>(found - tensors.begin());
}

bool IsV4PrefixOfTransformers(std::string_view prefix) {
  if (!prefix.ends_with(kInModel)) return false;
  prefix.remove_suffix(kInModel.size());
  return prefix.empty() || prefix.ends_with('.');
}

std::string V4Name(std::string_view prefix, std::string_view released) {
  if (!IsV4PrefixOfTransformers(prefix)) return fmt::format("{}{}", prefix, released);
  constexpr std::string_view kHead = "head.weight";
  constexpr std::string_view kHeadStreams = "hc_head_";
  constexpr std::string_view kKvNorm = ".attn.kv_norm.weight";
  if (released == kHead) {
    return fmt::format("{}{}", prefix.substr(0, prefix.size() - kInModel.size()), kHead);
  }
  if (released == "embed.weight") return fmt::format("{}embed_tokens.weight", prefix);
  if (released.starts_with(kHeadStreams)) {
    return fmt::format("{}hc_head.hc_{}", prefix, released.substr(kHeadStreams.size()));
  }
  if (released.ends_with(kKvNorm)) {
    released.remove_suffix(kKvNorm.size());
    return fmt::format("{}{}.attn.norm.weight", prefix, released);
  }
  return fmt::format("{}{}", prefix, released);
}

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
  if (v4.o_groups == 0 || config.num_attention_heads % v4.o_groups != 0) {
    fields.Fail(
        fmt::format("'o_groups' is {}, which does not divide the {} heads of "
                    "'num_attention_heads'; take the config.json that belongs to the weights",
                    v4.o_groups, config.num_attention_heads));
  }
  v4.num_hash_layers = ReadHashLayers(fields, config);
  ReadRatios(fields, config);
  v4.has_draft = fields.Find("dspark_block_size") != nullptr;
  config.v_head_dim = v4.head_dim;
  const std::uint64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (std::uint64_t layer = 0; layer < layers; ++layer) {
    config.indexer_layers.push_back(CompressRatio(config, layer) == v4.indexed_ratio);
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

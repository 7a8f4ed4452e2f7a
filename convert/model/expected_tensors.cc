#include "convert/model/expected_tensors.h"

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"
#include "convert/model/name_scope.h"
#include "convert/model/v4_tensors.h"

namespace dsv3::convert {
namespace {

using Dims = std::initializer_list<std::uint64_t>;

using Visit = std::function<void(const ExpectedTensorView&)>;

// Walks the tensors that a config predicts in the model's order. One buffer serves all names, since
// building tens of thousands of strings would take longer than looking the tensors up.
class ModelWalk {
 public:
  ModelWalk(const ModelConfig& config, std::string_view prefix, const Visit& visit)
      : c_(config), name_(prefix), visit_(visit) {}

  void Run() {
    if (!c_.is_nextn) Main();
    mtp_ = true;
    for (std::uint64_t i = 0; i < c_.num_nextn_predict_layers; ++i) {
      Layer(c_.num_hidden_layers + i);
    }
  }

 private:
  void Main() {
    Emit("model.embed_tokens.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kEmbedding);
    for (std::uint64_t i = 0; i < c_.num_hidden_layers; ++i) Layer(i);
    Emit("model.norm.weight", {c_.hidden_size}, TensorRole::kNorm);
    if (!c_.tie_word_embeddings) {
      Emit("lm_head.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kHead);
    }
  }

  void Emit(std::string_view part, Dims dims, TensorRole role) {
    const NameScope scope(name_, part);
    visit_({name_, {dims.begin(), dims.size()}, role, layer_, mtp_});
  }

  void Layer(std::uint64_t index) {
    const NameScope scope(name_, "model.layers.", index);
    layer_ = static_cast<std::uint32_t>(index);
    Emit("input_layernorm.weight", {c_.hidden_size}, TensorRole::kNorm);
    Attention(index);
    Emit("post_attention_layernorm.weight", {c_.hidden_size}, TensorRole::kNorm);
    if (IsMoeLayer(c_, index)) {
      Moe();
    } else {
      Mlp("mlp.", c_.intermediate_size, TensorRole::kMlpLinear);
    }
    if (mtp_) MtpExtras();
    layer_ = ExpectedTensor::kNoLayer;
  }

  void Attention(std::uint64_t index) {
    const NameScope scope(name_, "self_attn.");
    const auto role = TensorRole::kAttentionLinear;
    const std::uint64_t q_rows =
        c_.num_attention_heads * (c_.qk_nope_head_dim + c_.qk_rope_head_dim);
    const std::uint64_t kv_a_rows = c_.kv_lora_rank + c_.qk_rope_head_dim;
    if (c_.q_lora_rank == 0) {
      Emit("q_proj.weight", {q_rows, c_.hidden_size}, role);
    } else {
      Emit("q_a_proj.weight", {c_.q_lora_rank, c_.hidden_size}, role);
      if (c_.attention_bias) Emit("q_a_proj.bias", {c_.q_lora_rank}, TensorRole::kBias);
      Emit("q_a_layernorm.weight", {c_.q_lora_rank}, TensorRole::kNorm);
      Emit("q_b_proj.weight", {q_rows, c_.q_lora_rank}, role);
    }
    Emit("kv_a_proj_with_mqa.weight", {kv_a_rows, c_.hidden_size}, role);
    if (c_.attention_bias) Emit("kv_a_proj_with_mqa.bias", {kv_a_rows}, TensorRole::kBias);
    Emit("kv_a_layernorm.weight", {c_.kv_lora_rank}, TensorRole::kNorm);
    Emit("kv_b_proj.weight",
         {c_.num_attention_heads * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank}, role);
    Emit("o_proj.weight", {c_.hidden_size, c_.num_attention_heads * c_.v_head_dim}, role);
    if (c_.attention_bias) Emit("o_proj.bias", {c_.hidden_size}, TensorRole::kBias);
    if (HasIndexer(c_, index)) Indexer();
  }

  void Indexer() {
    const NameScope scope(name_, "indexer.");
    const auto role = TensorRole::kAttentionLinear;
    Emit("wq_b.weight", {c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank}, role);
    Emit("wk.weight", {c_.index_head_dim, c_.hidden_size}, role);
    Emit("k_norm.weight", {c_.index_head_dim}, TensorRole::kNorm);
    Emit("k_norm.bias", {c_.index_head_dim}, TensorRole::kBias);
    Emit("weights_proj.weight", {c_.index_n_heads, c_.hidden_size}, TensorRole::kUnquantizedLinear);
  }

  void Mlp(std::string_view part, std::uint64_t width, TensorRole role) {
    const NameScope scope(name_, part);
    Emit("gate_proj.weight", {width, c_.hidden_size}, role);
    Emit("up_proj.weight", {width, c_.hidden_size}, role);
    Emit("down_proj.weight", {c_.hidden_size, width}, role);
  }

  void Moe() {
    const NameScope scope(name_, "mlp.");
    Emit("gate.weight", {c_.n_routed_experts, c_.hidden_size}, TensorRole::kRouter);
    if (c_.router_bias) {
      Emit("gate.e_score_correction_bias", {c_.n_routed_experts}, TensorRole::kRouterBias);
    }
    if (c_.n_shared_experts > 0) {
      Mlp("shared_experts.", c_.moe_intermediate_size * c_.n_shared_experts,
          TensorRole::kMlpLinear);
    }
    for (std::uint64_t e = 0; e < c_.n_routed_experts; ++e) {
      const NameScope expert(name_, "experts.", e);
      Mlp("", c_.moe_intermediate_size, TensorRole::kExpertLinear);
    }
  }

  void MtpExtras() {
    Emit("enorm.weight", {c_.hidden_size}, TensorRole::kNorm);
    Emit("hnorm.weight", {c_.hidden_size}, TensorRole::kNorm);
    Emit("eh_proj.weight", {c_.hidden_size, 2 * c_.hidden_size}, TensorRole::kUnquantizedLinear);
    if (c_.mtp_embedding_copies) {
      Emit("embed_tokens.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kEmbedding);
    }
    Emit("shared_head.norm.weight", {c_.hidden_size}, TensorRole::kNorm);
    if (c_.mtp_embedding_copies) {
      Emit("shared_head.head.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kHead);
    }
  }

  const ModelConfig& c_;
  std::string name_;
  const Visit& visit_;
  std::uint32_t layer_ = ExpectedTensor::kNoLayer;
  bool mtp_ = false;
};

// The prefix before `name`, a name of the model, in the catalog's name for the same tensor.
std::optional<std::string_view> FindPrefixOf(std::string_view name, const Catalog& catalog) {
  constexpr std::size_t kLongest = 128;  // it is repeated for every tensor of the model
  if (catalog.Find(name) != Catalog::kNone) return "";
  for (const CatalogTensor& tensor : catalog.tensors()) {
    const std::string_view found = tensor.name;
    if (found.size() <= name.size() || !found.ends_with(name)) continue;
    const std::string_view prefix = found.substr(0, found.size() - name.size());
    if (prefix.ends_with('.') && prefix.size() <= kLongest) return prefix;
  }
  return std::nullopt;
}

}  // namespace

bool IsQuantized(TensorRole role) {
  switch (role) {
    case TensorRole::kAttentionLinear:
    case TensorRole::kMlpLinear:
    case TensorRole::kExpertLinear:
      return true;
    case TensorRole::kEmbedding:
    case TensorRole::kHead:
    case TensorRole::kNorm:
    case TensorRole::kRouter:
    case TensorRole::kRouterBias:
    case TensorRole::kUnquantizedLinear:
    case TensorRole::kBias:
    case TensorRole::kF32Parameter:
    case TensorRole::kExpertTable:
      return false;
  }
  return false;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> tensors;
  ForEachExpected(config, "", [&](const ExpectedTensorView& t) {
    tensors.push_back(
        {std::string(t.name), {t.shape.begin(), t.shape.end()}, t.role, t.layer, t.mtp});
  });
  return tensors;
}

void ForEachExpected(const ModelConfig& config, std::string_view prefix, const Visit& visit) {
  if (!config.known) return;
  if (config.v4) {
    VisitV4Tensors(config, prefix, visit);
  } else {
    ModelWalk(config, prefix, visit).Run();
  }
}

std::string_view FindNamePrefix(const Catalog& catalog) {
  for (const std::string_view name : {"model.embed_tokens.weight", "model.norm.weight"}) {
    const std::optional<std::string_view> prefix = FindPrefixOf(name, catalog);
    if (!prefix) continue;
    if (!HasV4NamesOfTransformers(catalog, *prefix)) return *prefix;
    const std::string found = fmt::format("{}{}", *prefix, name);
    const std::string_view whole = catalog.tensors()[catalog.Find(found)].name;
    return whole.substr(0, prefix->size() + std::string_view("model.").size());
  }
  return "";
}

}  // namespace dsv3::convert

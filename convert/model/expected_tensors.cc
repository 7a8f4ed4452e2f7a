#include "convert/model/expected_tensors.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <span>

#include <fmt/format.h>

#include "formats/finding.h"

namespace dsv3::convert {
namespace {

using Dims = std::initializer_list<std::uint64_t>;

// Walks the tensors that a config predicts in the model's order and calls
//   visit(name, dims, role, layer, mtp)
// for each; `name` is only valid during the call. One buffer serves all names, since building tens
// of thousands of strings would take longer than looking the tensors up.
template <typename Visit>
class ModelWalk {
 public:
  ModelWalk(const ModelConfig& config, std::string_view prefix, Visit& visit)
      : c_(config), name_(prefix), visit_(visit) {}

  void Run() {
    Emit("model.embed_tokens.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kEmbedding);
    for (std::uint64_t i = 0; i < c_.num_hidden_layers; ++i) Layer(i);
    Emit("model.norm.weight", {c_.hidden_size}, TensorRole::kNorm);
    if (!c_.tie_word_embeddings) {
      Emit("lm_head.weight", {c_.vocab_size, c_.hidden_size}, TensorRole::kHead);
    }
    mtp_ = true;
    for (std::uint64_t i = 0; i < c_.num_nextn_predict_layers; ++i) {
      Layer(c_.num_hidden_layers + i);
    }
  }

 private:
  // Appends to the name for as long as the object lives.
  class Scope {
   public:
    Scope(std::string& name, std::string_view part) : name_(name), size_(name.size()) {
      name_ += part;
    }
    Scope(std::string& name, std::string_view part, std::uint64_t number) : Scope(name, part) {
      char digits[24];
      const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
      name_.append(digits, end);
      name_ += '.';
    }
    ~Scope() { name_.resize(size_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::string& name_;
    std::size_t size_;
  };

  void Emit(std::string_view part, Dims dims, TensorRole role) {
    const Scope scope(name_, part);
    visit_(std::string_view(name_), std::span<const std::uint64_t>(dims.begin(), dims.size()), role,
           layer_, mtp_);
  }

  void Layer(std::uint64_t index) {
    const Scope scope(name_, "model.layers.", index);
    layer_ = static_cast<std::uint32_t>(index);
    Emit("input_layernorm.weight", {c_.hidden_size}, TensorRole::kNorm);
    Attention();
    Emit("post_attention_layernorm.weight", {c_.hidden_size}, TensorRole::kNorm);
    if (IsMoe(index)) {
      Moe();
    } else {
      Mlp("mlp.", c_.intermediate_size, TensorRole::kMlpLinear);
    }
    if (mtp_) MtpExtras();
    layer_ = ExpectedTensor::kNoLayer;
  }

  bool IsMoe(std::uint64_t index) const {
    return c_.n_routed_experts > 0 && index >= c_.first_k_dense_replace &&
           index % c_.moe_layer_freq == 0;
  }

  void Attention() {
    const Scope scope(name_, "self_attn.");
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
    if (c_.index_n_heads > 0) Indexer();
  }

  void Indexer() {
    const Scope scope(name_, "indexer.");
    const auto role = TensorRole::kAttentionLinear;
    Emit("wq_b.weight", {c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank}, role);
    Emit("wk.weight", {c_.index_head_dim, c_.hidden_size}, role);
    Emit("k_norm.weight", {c_.index_head_dim}, TensorRole::kNorm);
    Emit("k_norm.bias", {c_.index_head_dim}, TensorRole::kBias);
    Emit("weights_proj.weight", {c_.index_n_heads, c_.hidden_size}, TensorRole::kUnquantizedLinear);
  }

  void Mlp(std::string_view part, std::uint64_t width, TensorRole role) {
    const Scope scope(name_, part);
    Emit("gate_proj.weight", {width, c_.hidden_size}, role);
    Emit("up_proj.weight", {width, c_.hidden_size}, role);
    Emit("down_proj.weight", {c_.hidden_size, width}, role);
  }

  void Moe() {
    const Scope scope(name_, "mlp.");
    Emit("gate.weight", {c_.n_routed_experts, c_.hidden_size}, TensorRole::kRouter);
    if (c_.router_bias) {
      Emit("gate.e_score_correction_bias", {c_.n_routed_experts}, TensorRole::kRouterBias);
    }
    if (c_.n_shared_experts > 0) {
      Mlp("shared_experts.", c_.moe_intermediate_size * c_.n_shared_experts,
          TensorRole::kMlpLinear);
    }
    for (std::uint64_t e = 0; e < c_.n_routed_experts; ++e) {
      const Scope expert(name_, "experts.", e);
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
  Visit& visit_;
  std::uint32_t layer_ = ExpectedTensor::kNoLayer;
  bool mtp_ = false;
};

template <typename Visit>
void ForEachExpected(const ModelConfig& config, std::string_view prefix, Visit&& visit) {
  if (config.known) ModelWalk<std::remove_reference_t<Visit>>(config, prefix, visit).Run();
}

// What stands before "model.embed_tokens.weight" in the catalog's name for it.
std::string_view FindPrefix(const Catalog& catalog) {
  constexpr std::string_view kFirst = "model.embed_tokens.weight";
  if (catalog.Find(kFirst) != Catalog::kNone) return "";
  for (const CatalogTensor& tensor : catalog.tensors()) {
    const std::string_view name = tensor.name;
    if (name.size() > kFirst.size() && name.ends_with(kFirst) &&
        name[name.size() - kFirst.size() - 1] == '.') {
      return name.substr(0, name.size() - kFirst.size());
    }
  }
  return "";
}

// Formats that pack several values into a word keep a quantised weight under another name
// ("weight_packed") and in another shape.
bool IsPacked(const ModelConfig& config, const Catalog& catalog, std::string_view name) {
  return config.quantization && config.quantization->quant_method != "fp8" &&
         catalog.Find(std::string(name) + "_packed") != Catalog::kNone;
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
      return false;
  }
  return false;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> tensors;
  ForEachExpected(
      config, "",
      [&](std::string_view name, std::span<const std::uint64_t> dims, TensorRole role,
          std::uint32_t layer, bool mtp) {
        tensors.push_back({std::string(name), {dims.begin(), dims.end()}, role, layer, mtp});
      });
  return tensors;
}

formats::Findings CheckAgainstModel(const ModelConfig& config, const Catalog& catalog) {
  using formats::Severity;
  formats::Findings findings;
  if (!config.known) {
    findings.push_back(
        {Severity::kWarning, "unknown-model-type", "config.json", "",
         fmt::format("config.json: the model_type '{}' is not one whose tensors are known here, so "
                     "whether the checkpoint is complete cannot be checked against the config",
                     config.model_type)});
    return findings;
  }
  ForEachExpected(
      config, FindPrefix(catalog),
      [&](std::string_view name, std::span<const std::uint64_t> dims, TensorRole role,
          std::uint32_t, bool) {
        const std::uint32_t position = catalog.Find(name);
        if (position == Catalog::kNone) {
          if (IsQuantized(role) && IsPacked(config, catalog, name)) return;
          findings.push_back(
              {Severity::kError, "missing-tensor", "", std::string(name),
               fmt::format(
                   "tensor '{}': config.json ({}, {} layers) predicts it with shape {}, but no "
                   "file holds it; the checkpoint is incomplete or the config belongs to "
                   "another model: download what is missing",
                   name, config.model_type, config.num_hidden_layers,
                   formats::ShapeToString({dims.begin(), dims.end()}))});
          return;
        }
        const CatalogTensor& tensor = catalog.tensors()[position];
        if (!std::equal(dims.begin(), dims.end(), tensor.shape.begin(), tensor.shape.end())) {
          const std::string& file = catalog.files()[tensor.extent.file].name;
          findings.push_back(
              {Severity::kError, "wrong-shape", file, std::string(name),
               fmt::format(
                   "{}: tensor '{}' has shape {}, but config.json ({}) predicts {}; the config "
                   "or the file belongs to another model",
                   file, name, formats::ShapeToString(tensor.shape), config.model_type,
                   formats::ShapeToString({dims.begin(), dims.end()}))});
        }
      });
  return findings;
}

}  // namespace dsv3::convert

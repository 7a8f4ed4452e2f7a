#include "convert/model/model_config.h"

#include <algorithm>
#include <array>

#include "convert/model/config_fields-inl.h"

namespace dsv3::convert {
namespace {

using Json = ConfigFields::Json;
using Fields = ConfigFields;

// The values of fields that the config leaves out.
struct FieldDefaults {
  std::uint64_t vocab_size, hidden_size, intermediate_size, moe_intermediate_size;
  std::uint64_t num_hidden_layers, num_attention_heads;
  std::uint64_t n_routed_experts, n_shared_experts, num_experts_per_tok, n_group;
  std::uint64_t first_k_dense_replace;
  std::uint64_t q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
  std::uint64_t index_n_heads, index_head_dim;
};

struct Architecture {
  std::string_view model_type;
  const FieldDefaults* defaults;  // nullptr: nothing may be left out
  bool router_bias;               // when the config has no topk_method
  bool indexer;
  bool mtp_embedding_copies;
  bool v4 = false;
};

constexpr FieldDefaults kV3Defaults = {129280, 7168, 18432, 2048, 61,  128, 256, 1, 8,
                                       8,      3,    1536,  512,  128, 64,  128, 0, 0};
constexpr FieldDefaults kV32Defaults = {129280, 7168, 18432, 2048, 61,  128, 256, 1,  8,
                                        8,      3,    1536,  512,  128, 64,  128, 64, 128};
constexpr FieldDefaults kGlmDefaults = {154880, 6144, 12288, 2048, 78,  64, 256, 1,  8,
                                        1,      3,    2048,  512,  192, 64, 256, 32, 128};

constexpr std::array kArchitectures = {
    Architecture{"deepseek_v3", &kV3Defaults, true, false, true},
    Architecture{"deepseek_v32", &kV32Defaults, true, true, true},
    Architecture{"kimi_k2", nullptr, true, false, true},
    Architecture{"glm_moe_dsa", &kGlmDefaults, true, true, false},
    Architecture{"deepseek_v2", nullptr, false, false, true},
    Architecture{"deepseek_v4", nullptr, true, true, false, true},
};

const Architecture* FindArchitecture(std::string_view model_type) {
  const auto found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                  [&](const auto& a) { return a.model_type == model_type; });
  return found == kArchitectures.end() ? nullptr : &*found;
}

void ReadDimensions(const Fields& fields, const FieldDefaults* d, ModelConfig& m) {
  const auto dimension = [&](const char* name, const std::uint64_t FieldDefaults::*member) {
    return fields.Dimension(name, d == nullptr ? nullptr : &(d->*member));
  };
  const auto v3_dimension = [&](const char* name, const std::uint64_t FieldDefaults::*member) {
    return m.v4 ? 0 : dimension(name, member);
  };
  const auto count = [&](const char* name, const std::uint64_t FieldDefaults::*member) {
    return fields.Count(name, d == nullptr ? 0 : d->*member);
  };
  m.vocab_size = dimension("vocab_size", &FieldDefaults::vocab_size);
  m.hidden_size = dimension("hidden_size", &FieldDefaults::hidden_size);
  m.intermediate_size = v3_dimension("intermediate_size", &FieldDefaults::intermediate_size);
  m.num_hidden_layers = dimension("num_hidden_layers", &FieldDefaults::num_hidden_layers);
  m.num_attention_heads = dimension("num_attention_heads", &FieldDefaults::num_attention_heads);
  m.kv_lora_rank = v3_dimension("kv_lora_rank", &FieldDefaults::kv_lora_rank);
  m.qk_nope_head_dim = v3_dimension("qk_nope_head_dim", &FieldDefaults::qk_nope_head_dim);
  m.qk_rope_head_dim = dimension("qk_rope_head_dim", &FieldDefaults::qk_rope_head_dim);
  m.v_head_dim = v3_dimension("v_head_dim", &FieldDefaults::v_head_dim);
  m.q_lora_rank = count("q_lora_rank", &FieldDefaults::q_lora_rank);
  m.n_routed_experts = count("n_routed_experts", &FieldDefaults::n_routed_experts);
  m.n_shared_experts = count("n_shared_experts", &FieldDefaults::n_shared_experts);
  m.num_experts_per_tok = count("num_experts_per_tok", &FieldDefaults::num_experts_per_tok);
  m.n_group = std::max<std::uint64_t>(1, count("n_group", &FieldDefaults::n_group));
  m.first_k_dense_replace =
      m.v4 ? 0 : count("first_k_dense_replace", &FieldDefaults::first_k_dense_replace);
  m.moe_intermediate_size =
      m.n_routed_experts == 0
          ? fields.Count("moe_intermediate_size", 0)
          : dimension("moe_intermediate_size", &FieldDefaults::moe_intermediate_size);
  m.num_nextn_predict_layers = fields.Count("num_nextn_predict_layers", 0);
  constexpr std::uint64_t kEveryLayer = 1;
  const Json* const frequency = fields.Find("moe_layer_freq");
  const bool is_list = frequency != nullptr && frequency->is_array();  // see ReadLayerKinds
  m.moe_layer_freq = is_list ? kEveryLayer : fields.Dimension("moe_layer_freq", &kEveryLayer);
  m.attention_bias = fields.Bool("attention_bias", false);
  m.tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
}

void RequireModestSize(const ModelConfig& m, const std::string& file) {
  // The most tensors of a layer that are not routed experts. All factors are below 2^32, so only
  // the product needs care.
  const std::uint64_t others = m.v4 ? 48 : 24;
  const std::uint64_t layers = m.num_hidden_layers + m.num_nextn_predict_layers;
  const std::uint64_t per_layer = others + 3 * m.n_routed_experts;
  if (layers > kMaxExpectedTensors / per_layer) {
    FailConfig(file,
               fmt::format("describes {} layers with {} routed experts each, more than {} tensors; "
                           "no model of this family is that large, so the config is damaged",
                           layers, m.n_routed_experts, kMaxExpectedTensors));
  }
}

bool IsNextN(const Json& root) {
  const auto architectures = root.find("architectures");
  return architectures != root.end() && architectures->is_array() && architectures->size() == 1 &&
         architectures->front().is_string() &&
         architectures->front().get_ref<const std::string&>().ends_with("NextN");
}

// The fields of layers are those of the model that the layer comes from.
void MakeNextN(ModelConfig& m) {
  m.num_nextn_predict_layers = m.num_hidden_layers;
  m.num_hidden_layers = 0;
  m.first_k_dense_replace = 0;
  m.mtp_embedding_copies = false;
}

}  // namespace

ModelConfig ParseModelConfig(std::string_view text, const std::string& file) {
  const Json root = ParseConfigObject(text, file);
  const Json* object = &root;
  ModelConfig config;
  if (const auto nested = root.find("text_config");
      nested != root.end() && nested->is_object() && !root.contains("hidden_size")) {
    object = &*nested;
    config.prefix = "text_config/";
  }
  const std::string path = config.prefix.empty() ? "" : "text_config.";
  const Fields strict(*object, file, path, /*strict=*/true);
  config.model_type = strict.String("model_type");
  const Architecture* architecture = FindArchitecture(config.model_type);
  config.known = architecture != nullptr;

  const Fields fields(*object, file, path, config.known);
  if (config.known && architecture->v4) config.v4.emplace();
  ReadDimensions(fields, config.known ? architecture->defaults : nullptr, config);
  if (config.known) {
    const std::string topk_method = fields.String("topk_method");
    config.router_bias =
        config.n_routed_experts > 0 &&
        (topk_method.empty() ? architecture->router_bias : topk_method == "noaux_tc");
    config.mtp_embedding_copies = architecture->mtp_embedding_copies;
    const bool has_indexer = architecture->indexer && !config.v4 && config.q_lora_rank > 0;
    if (has_indexer) {
      config.index_n_heads =
          fields.Dimension("index_n_heads", &architecture->defaults->index_n_heads);
      config.index_head_dim =
          fields.Dimension("index_head_dim", &architecture->defaults->index_head_dim);
    }
    RequireModestSize(config, file);
    config.is_nextn = !config.v4 && IsNextN(root);
    if (config.v4) {
      ReadV4(fields, config);
    } else if (config.is_nextn) {
      MakeNextN(config);
    } else {
      ReadLayerKinds(fields, has_indexer, config);
    }
  }
  config.expert_dtype = fields.String("expert_dtype");
  config.quantization = ParseQuantization(*object, strict, file, path);
  if (config.quantization) {
    config.quantization->member.insert(0, config.prefix);
  } else if (!config.prefix.empty()) {
    const Fields top(root, file, "", /*strict=*/true);
    config.quantization = ParseQuantization(root, top, file, "");
  }
  return config;
}

}  // namespace dsv3::convert

#include "convert/recipes/sample_config.h"

#include <cstdint>
#include <string_view>

#include "convert/recipes/sample_codes.h"
#include "convert/recipes/sample_presets.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::JsonWriter;

// What the configs of the models under V3's names differ in.
struct FamilyFields {
  std::string_view architecture = "DeepseekV3ForCausalLM";
  std::string_view model_type = "deepseek_v3";
  bool indexer = false;
  std::string_view mscale = "1.0";  // of YaRN; empty: the positions are not scaled
  std::string_view rope_theta = "10000";
  std::string_view routed_scaling_factor = "2.5";
  std::string_view norm_topk_prob = "true";
  std::string_view scoring_func = "sigmoid";
  std::string_view topk_method = "noaux_tc";
};

FamilyFields FieldsOf(SampleFamily family) {
  FamilyFields fields;
  switch (family) {
    case SampleFamily::kV3:
    case SampleFamily::kV4:
      break;
    case SampleFamily::kV32:
      fields.architecture = "DeepseekV32ForCausalLM";
      fields.model_type = "deepseek_v32";
      fields.indexer = true;
      break;
    case SampleFamily::kKimiK2:
    case SampleFamily::kKimiK25:
      fields.model_type = "kimi_k2";
      break;
    case SampleFamily::kGlm5:
      fields.architecture = "GlmMoeDsaForCausalLM";
      fields.model_type = "glm_moe_dsa";
      fields.indexer = true;
      fields.mscale = "";
      fields.rope_theta = "1000000";
      break;
    case SampleFamily::kV2:
      fields.architecture = "DeepseekV2ForCausalLM";
      fields.model_type = "deepseek_v2";
      fields.mscale = "0.707";
      fields.routed_scaling_factor = "1.0";
      fields.norm_topk_prob = "false";
      fields.scoring_func = "softmax";
      fields.topk_method = "greedy";
      break;
    case SampleFamily::kMoonlight:
      fields.mscale = "";
      fields.rope_theta = "50000.0";
      fields.routed_scaling_factor = "2.446";
      break;
  }
  return fields;
}

void WriteYarn(std::uint64_t factor, std::uint64_t positions, std::string_view mscale,
               JsonWriter& out) {
  out.BeginObject("rope_scaling");
  out.Uint("beta_fast", 32);
  out.Uint("beta_slow", 1);
  out.Uint("factor", factor);
  if (!mscale.empty()) {
    out.Raw("mscale", mscale);
    out.Raw("mscale_all_dim", mscale);
  }
  out.Uint("original_max_position_embeddings", positions);
  out.String("type", "yarn");
  out.EndObject();
}

void WriteFp8(const SampleTraits& traits, JsonWriter& out) {
  out.BeginObject("quantization_config");
  out.String("activation_scheme", "dynamic");
  out.String("fmt", "e4m3");
  if (traits.family == SampleFamily::kGlm5) {
    out.Strings("modules_to_not_convert", {"lm_head", "model.embed_tokens", "indexers_proj"});
  }
  out.String("quant_method", "fp8");
  if (traits.linears != SampleForm::kFp8) out.String("scale_fmt", "ue8m0");
  out.Uints("weight_block_size", {kSampleBlock.rows, kSampleBlock.cols});
  out.EndObject();
}

void WriteInt4(JsonWriter& out) {
  out.BeginObject("quantization_config");
  out.BeginObject("config_groups");
  out.BeginObject("group_0");
  out.Raw("input_activations", "null");
  out.Raw("output_activations", "null");
  out.Strings("targets", {"Linear"});
  out.BeginObject("weights");
  out.Raw("actorder", "null");
  out.Raw("block_structure", "null");
  out.Raw("dynamic", "false");
  out.Uint("group_size", 32);
  out.Uint("num_bits", 4);
  out.String("observer", "minmax");
  out.String("strategy", "group");
  out.Raw("symmetric", "true");
  out.String("type", "int");
  out.EndObject();
  out.EndObject();
  out.EndObject();
  out.String("format", "pack-quantized");
  out.Strings("ignore", {"lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
                         R"(re:.*mlp\.(gate|up|gate_up|down)_proj.*)"});
  out.Raw("kv_cache_scheme", "null");
  out.String("quant_method", "compressed-tensors");
  out.String("quantization_status", "compressed");
  out.EndObject();
}

void WriteAwq(JsonWriter& out) {
  out.BeginObject("quantization_config");
  out.Uint("bits", 4);
  out.Uint("group_size", kSampleAwqGroup);
  out.Raw("modules_to_not_convert", "null");
  out.String("quant_method", "awq");
  out.String("version", "gemm");
  out.Raw("zero_point", "true");
  out.EndObject();
}

void WriteQuantization(const SampleTraits& traits, JsonWriter& out) {
  if (IsFp8Form(traits.linears)) WriteFp8(traits, out);
  if (traits.linears == SampleForm::kAwq) WriteAwq(out);
  if (traits.experts == SampleForm::kInt4) WriteInt4(out);
}

// The members of models under V3's names, in their order.
void WriteV3Fields(const SampleTraits& traits, JsonWriter& out) {
  const SampleSizes& s = *traits.sizes;
  const FamilyFields family = FieldsOf(traits.family);
  out.Strings("architectures", {family.architecture});
  out.Raw("attention_bias", "false");
  out.Raw("attention_dropout", "0.0");
  out.Uint("bos_token_id", 0);
  out.Uint("eos_token_id", 1);
  out.Uint("ep_size", 1);
  out.Uint("first_k_dense_replace", s.first_k_dense_replace);
  out.String("hidden_act", "silu");
  out.Uint("hidden_size", s.hidden_size);
  if (family.indexer) {
    out.Uint("index_head_dim", 64);
    out.Uint("index_n_heads", 2);
    out.Uint("index_topk", 32);
  }
  out.Raw("initializer_range", "0.02");
  out.Uint("intermediate_size", s.intermediate_size);
  out.Uint("kv_lora_rank", s.kv_lora_rank);
  out.Uint("max_position_embeddings", 163840);
  out.String("model_type", family.model_type);
  out.Uint("moe_intermediate_size", s.moe_intermediate_size);
  out.Uint("moe_layer_freq", 1);
  out.Uint("n_group", s.n_group);
  out.Uint("n_routed_experts", s.n_routed_experts);
  out.Uint("n_shared_experts", s.n_shared_experts);
  out.Raw("norm_topk_prob", family.norm_topk_prob);
  out.Uint("num_attention_heads", s.num_attention_heads);
  out.Uint("num_experts_per_tok", s.num_experts_per_tok);
  out.Uint("num_hidden_layers", s.num_hidden_layers);
  out.Uint("num_key_value_heads", s.num_attention_heads);
  out.Uint("num_nextn_predict_layers", s.mtp_shards == 0 ? 0 : 1);
  if (s.q_lora_rank == 0) {
    out.Raw("q_lora_rank", "null");
  } else {
    out.Uint("q_lora_rank", s.q_lora_rank);
  }
  out.Uint("qk_nope_head_dim", s.qk_nope_head_dim);
  out.Uint("qk_rope_head_dim", 64);
  WriteQuantization(traits, out);
  out.Raw("rms_norm_eps", "1e-06");
  if (family.mscale.empty()) {
    out.Raw("rope_scaling", "null");
  } else {
    WriteYarn(40, 4096, family.mscale, out);
  }
  out.Raw("rope_theta", family.rope_theta);
  out.Raw("routed_scaling_factor", family.routed_scaling_factor);
  out.String("scoring_func", family.scoring_func);
  out.Raw("tie_word_embeddings", "false");
  out.Uint("topk_group", s.topk_group);
  out.String("topk_method", family.topk_method);
  out.String("torch_dtype", "bfloat16");
  out.Raw("use_cache", "true");
  out.Uint("v_head_dim", s.v_head_dim);
  out.Uint("vocab_size", s.vocab_size);
}

void WriteV4Fields(const SampleTraits& traits, JsonWriter& out) {
  const SampleSizes& s = *traits.sizes;
  out.Strings("architectures", {"DeepseekV4ForCausalLM"});
  out.Raw("attention_bias", "false");
  out.Raw("attention_dropout", "0.0");
  out.Uint("bos_token_id", 0);
  // The last is the MTP layer's.
  out.Uints("compress_ratios", {0, 0, 4, 128, 4, 0});
  out.Uint("compress_rope_theta", 160000);
  out.Uint("eos_token_id", 1);
  out.String("expert_dtype", "fp4");
  out.Raw("hc_eps", "1e-06");
  out.Uint("hc_mult", 4);
  out.Uint("hc_sinkhorn_iters", 20);
  out.Uint("head_dim", 64);
  out.String("hidden_act", "silu");
  out.Uint("hidden_size", s.hidden_size);
  out.Uint("index_head_dim", 64);
  out.Uint("index_n_heads", 4);
  out.Uint("index_topk", 32);
  out.Raw("initializer_range", "0.02");
  out.Uint("max_position_embeddings", 1048576);
  out.String("model_type", "deepseek_v4");
  out.Uint("moe_intermediate_size", s.moe_intermediate_size);
  out.Uint("n_routed_experts", s.n_routed_experts);
  out.Uint("n_shared_experts", s.n_shared_experts);
  out.Raw("norm_topk_prob", "true");
  out.Uint("num_attention_heads", s.num_attention_heads);
  out.Uint("num_experts_per_tok", s.num_experts_per_tok);
  out.Uint("num_hash_layers", 3);
  out.Uint("num_hidden_layers", s.num_hidden_layers);
  out.Uint("num_key_value_heads", 1);
  out.Uint("num_nextn_predict_layers", 1);
  out.Uint("o_groups", 4);
  out.Uint("o_lora_rank", 64);
  out.Uint("q_lora_rank", s.q_lora_rank);
  out.Uint("qk_rope_head_dim", 32);
  WriteQuantization(traits, out);
  out.Raw("rms_norm_eps", "1e-06");
  WriteYarn(16, 65536, /*mscale=*/"", out);
  out.Uint("rope_theta", 10000);
  out.Raw("routed_scaling_factor", "1.5");
  out.String("scoring_func", "sqrtsoftplus");
  out.Uint("sliding_window", 128);
  out.Raw("swiglu_limit", "10.0");
  out.Raw("tie_word_embeddings", "false");
  out.String("topk_method", "noaux_tc");
  out.String("torch_dtype", "bfloat16");
  out.Raw("use_cache", "true");
  out.Uint("vocab_size", s.vocab_size);
}

// A model of text and pictures, whose text model is described inside.
void WriteK25Fields(const SampleTraits& traits, JsonWriter& out) {
  out.Strings("architectures", {"KimiK25ForConditionalGeneration"});
  out.Uint("bos_token_id", 0);
  out.Uint("eos_token_id", 1);
  out.Uint("media_placeholder_token_id", 2);
  out.String("model_type", "kimi_k25");
  out.Uint("pad_token_id", 1);
  out.BeginObject("text_config");
  WriteV3Fields(traits, out);
  out.EndObject();
  out.Raw("tie_word_embeddings", "false");
  out.String("torch_dtype", "bfloat16");
  out.BeginObject("vision_config");
  out.Uint("merge_kernel_size", 2);
  out.Uint("patch_size", 14);
  out.Uint("vt_hidden_size", 64);
  out.Uint("vt_num_hidden_layers", 2);
  out.EndObject();
}

}  // namespace

std::string SampleConfig(SamplePreset preset) {
  const SampleTraits& traits = TraitsOf(preset);
  JsonWriter out(2);
  out.BeginObject();
  switch (traits.family) {
    case SampleFamily::kV4:
      WriteV4Fields(traits, out);
      break;
    case SampleFamily::kKimiK25:
      WriteK25Fields(traits, out);
      break;
    default:
      WriteV3Fields(traits, out);
      break;
  }
  out.EndObject();
  return out.Take() + "\n";
}

std::vector<std::pair<std::string, std::string>> SampleDescriptions(SamplePreset preset) {
  if (TraitsOf(preset).experts != SampleForm::kNvFp4) return {};
  JsonWriter out(2);
  out.BeginObject();
  out.BeginObject("producer");
  out.String("name", "modelopt");
  out.String("version", "0.47.0");
  out.EndObject();
  out.BeginObject("quantization");
  out.String("quant_algo", "NVFP4");
  out.Raw("kv_cache_quant_algo", "null");
  out.Uint("group_size", 16);
  out.Strings("exclude_modules", {"lm_head", "model.embed_tokens", "model.layers.0.*",
                                  "*self_attn*", "*mlp.gate", "*shared_experts*"});
  out.EndObject();
  out.EndObject();
  return {{"hf_quant_config.json", out.Take() + "\n"}};
}

}  // namespace dsv3::convert

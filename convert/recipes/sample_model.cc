#include "convert/recipes/sample_model.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "convert/model/scale_names.h"
#include "convert/recipes/sample_tokenizer.h"
#include "formats/json/json_writer.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

struct PresetSizes {
  std::uint64_t hidden_size, intermediate_size, moe_intermediate_size;
  std::uint64_t num_hidden_layers, num_attention_heads;
  std::uint64_t n_routed_experts, n_shared_experts, num_experts_per_tok;
  std::uint64_t n_group, topk_group, first_k_dense_replace;
  std::uint64_t q_lora_rank, kv_lora_rank, qk_nope_head_dim, v_head_dim, vocab_size;
  std::uint32_t body_shards;  // for all but the MTP layer
  std::uint32_t mtp_shards;   // for the MTP layer
  int shard_digits;           // of the total in shard names; 0: numbers without leading zeros
};

// qk_rope_head_dim is V3's 64 in all of them; with a kv_lora_rank of 512 that makes 576 rows.
// clang-format off
constexpr PresetSizes kV3Sizes = {
    7168, 18432, 2048, 61, 128, 256, 1, 8, 8, 4, 3, 1536, 512, 128, 128, 129280, 160, 3, 6};
constexpr PresetSizes kTinySizes = {
     256,   320,   80,  4,   2,   8, 1, 2, 4, 2, 1,  192, 512,  64,  64,    384,   3, 1, 5};
constexpr PresetSizes kTinyKimiSizes = {
     256,   320,   80,  4,   2,  12, 1, 2, 1, 1, 1,  192, 512,  64,  64,    384,   4, 0, 0};
// Blocks of 128 allow 8 tensor parallel ranks, those of an expert 2. The vocabulary needs padding.
constexpr PresetSizes kTinyTpSizes = {
     192,  1024,  256,  4,  16,  32, 4, 4, 4, 2, 1,  192, 512,  64,  64,   1000,   4, 1, 5};
// The layers of V3, as small as blocks of 128 allow with 8 tensor parallel ranks.
constexpr PresetSizes kTiny61Sizes = {
      64,  1024,  128, 61,  16,   8, 8, 2, 4, 2, 3,   64,  64,  64,  64,    512,   5, 1, 6};
constexpr PresetSizes kSmallSizes = {
    2048,  5632,  512,  6,  16,  32, 1, 4, 4, 2, 1,  768, 512, 128, 128,  16384,   7, 1, 5};
// clang-format on

const PresetSizes& SizesOf(SamplePreset preset) {
  switch (preset) {
    case SamplePreset::kTinyKimi:
      return kTinyKimiSizes;
    case SamplePreset::kTiny:
    case SamplePreset::kTinyV32:
      return kTinySizes;
    case SamplePreset::kTinyTp:
      return kTinyTpSizes;
    case SamplePreset::kTiny61:
      return kTiny61Sizes;
    case SamplePreset::kSmall:
      return kSmallSizes;
    case SamplePreset::kV3Shapes:
      break;
  }
  return kV3Sizes;
}

bool HasUe8m0Scales(SamplePreset preset) { return preset == SamplePreset::kTinyV32; }

// Which tensors lie in which shards: two runs of shards, each cut into equal shares of bytes, and a
// tensor belongs to the share in which its first byte lies. A cut nearly always falls inside a
// weight, so that the weight's scale, which follows it, begins the next shard.
class ShardAssignment {
 public:
  ShardAssignment(std::uint64_t body_bytes, std::uint64_t mtp_bytes, const PresetSizes& sizes)
      : body_{0, body_bytes, 0, sizes.body_shards},
        mtp_{0, mtp_bytes, sizes.body_shards, sizes.mtp_shards} {}

  std::uint32_t Next(bool mtp, std::uint64_t bytes) {
    Run& run = mtp ? mtp_ : body_;
    const std::uint64_t share = run.offset * run.num / run.bytes;
    run.offset += bytes;
    return run.first + static_cast<std::uint32_t>(share);
  }

 private:
  struct Run {
    std::uint64_t offset, bytes;
    std::uint32_t first, num;
  };
  Run body_;
  Run mtp_;
};

formats::Shape ScaleShape(const formats::Shape& weight) {
  const auto blocks = [](std::uint64_t size, std::uint64_t block) {
    return (size + block - 1) / block;
  };
  return {blocks(weight[0], kSampleBlock.rows), blocks(weight[1], kSampleBlock.cols)};
}

Dtype DtypeOf(TensorRole role) {
  if (IsQuantized(role)) return Dtype::kF8E4M3;
  return role == TensorRole::kRouterBias ? Dtype::kF32 : Dtype::kBF16;
}

// A weight with its scale, in bytes.
std::uint64_t BytesOf(const ExpectedTensor& tensor) {
  std::uint64_t bytes = formats::NumBytes(DtypeOf(tensor.role), tensor.shape).value();
  if (IsQuantized(tensor.role)) {
    bytes += formats::NumBytes(Dtype::kF32, ScaleShape(tensor.shape)).value();
  }
  return bytes;
}

void FinishShard(SampleShard& shard) {
  formats::LayOutTensors(shard.tensors);
  shard.header = formats::SerializeSafetensorsHeader(shard.tensors, {{"format", "pt"}});
  shard.bytes = shard.header.size() + (shard.tensors.empty() ? 0 : shard.tensors.back().end);
}

std::string MakeIndex(const std::vector<SampleShard>& shards) {
  formats::ShardIndex index;
  index.total_size = 0;
  for (const SampleShard& shard : shards) {
    const auto position = static_cast<std::uint32_t>(index.files.size());
    index.files.push_back(shard.name);
    *index.total_size += shard.bytes - shard.header.size();
    for (const auto& tensor : shard.tensors) index.weight_map.emplace_back(tensor.name, position);
  }
  std::sort(index.weight_map.begin(), index.weight_map.end());
  return formats::SerializeShardIndex(index);
}

std::string GenerationConfig() {
  formats::JsonWriter json(2);
  json.BeginObject();
  json.Key("_from_model_config");
  json.Bool(true);
  json.Key("bos_token_id");
  json.Uint(0);
  json.Key("eos_token_id");
  json.Uint(1);
  json.EndObject();
  return json.Take() + "\n";
}

void WriteRopeScaling(formats::JsonWriter& json) {
  json.Key("rope_scaling");
  json.BeginObject();
  json.Key("beta_fast");
  json.Uint(32);
  json.Key("beta_slow");
  json.Uint(1);
  json.Key("factor");
  json.Uint(40);
  json.Key("mscale");
  json.Raw("1.0");
  json.Key("mscale_all_dim");
  json.Raw("1.0");
  json.Key("original_max_position_embeddings");
  json.Uint(4096);
  json.Key("type");
  json.String("yarn");
  json.EndObject();
}

void WriteQuantization(SamplePreset preset, formats::JsonWriter& json) {
  json.Key("quantization_config");
  json.BeginObject();
  json.Key("activation_scheme");
  json.String("dynamic");
  json.Key("fmt");
  json.String("e4m3");
  json.Key("quant_method");
  json.String("fp8");
  if (HasUe8m0Scales(preset)) {
    json.Key("scale_fmt");
    json.String("ue8m0");
  }
  json.Key("weight_block_size");
  json.BeginArray();
  json.Uint(kSampleBlock.rows);
  json.Uint(kSampleBlock.cols);
  json.EndArray();
  json.EndObject();
}

std::string ShardName(std::uint32_t number, std::uint32_t total, int digits) {
  if (digits == 0) return fmt::format("model-{}-of-{}.safetensors", number, total);
  return fmt::format("model-{:05}-of-{:0{}}.safetensors", number, total, digits);
}

}  // namespace

std::string SampleConfig(SamplePreset preset) {
  const PresetSizes& s = SizesOf(preset);
  const bool v32 = preset == SamplePreset::kTinyV32;
  formats::JsonWriter json(2);
  const auto uint = [&](std::string_view key, std::uint64_t value) {
    json.Key(key);
    json.Uint(value);
  };
  const auto string = [&](std::string_view key, std::string_view value) {
    json.Key(key);
    json.String(value);
  };
  const auto raw = [&](std::string_view key, std::string_view value) {
    json.Key(key);
    json.Raw(value);
  };
  json.BeginObject();
  json.Key("architectures");
  json.BeginArray();
  json.String(v32 ? "DeepseekV32ForCausalLM" : "DeepseekV3ForCausalLM");
  json.EndArray();
  raw("attention_bias", "false");
  raw("attention_dropout", "0.0");
  uint("bos_token_id", 0);
  uint("eos_token_id", 1);
  uint("ep_size", 1);
  uint("first_k_dense_replace", s.first_k_dense_replace);
  string("hidden_act", "silu");
  uint("hidden_size", s.hidden_size);
  if (v32) {
    uint("index_head_dim", 64);
    uint("index_n_heads", 2);
    uint("index_topk", 32);
  }
  raw("initializer_range", "0.02");
  uint("intermediate_size", s.intermediate_size);
  uint("kv_lora_rank", s.kv_lora_rank);
  uint("max_position_embeddings", 163840);
  string("model_type", v32                                 ? "deepseek_v32"
                       : preset == SamplePreset::kTinyKimi ? "kimi_k2"
                                                           : "deepseek_v3");
  uint("moe_intermediate_size", s.moe_intermediate_size);
  uint("moe_layer_freq", 1);
  uint("n_group", s.n_group);
  uint("n_routed_experts", s.n_routed_experts);
  uint("n_shared_experts", s.n_shared_experts);
  raw("norm_topk_prob", "true");
  uint("num_attention_heads", s.num_attention_heads);
  uint("num_experts_per_tok", s.num_experts_per_tok);
  uint("num_hidden_layers", s.num_hidden_layers);
  uint("num_key_value_heads", s.num_attention_heads);
  uint("num_nextn_predict_layers", s.mtp_shards == 0 ? 0 : 1);
  uint("q_lora_rank", s.q_lora_rank);
  uint("qk_nope_head_dim", s.qk_nope_head_dim);
  uint("qk_rope_head_dim", 64);
  WriteQuantization(preset, json);
  raw("rms_norm_eps", "1e-06");
  WriteRopeScaling(json);
  uint("rope_theta", 10000);
  raw("routed_scaling_factor", "2.5");
  string("scoring_func", "sigmoid");
  raw("tie_word_embeddings", "false");
  uint("topk_group", s.topk_group);
  string("topk_method", "noaux_tc");
  string("torch_dtype", "bfloat16");
  raw("use_cache", "true");
  uint("v_head_dim", s.v_head_dim);
  uint("vocab_size", s.vocab_size);
  json.EndObject();
  return json.Take() + "\n";
}

SampleModel MakeSampleModel(SamplePreset preset) {
  const PresetSizes& sizes = SizesOf(preset);
  const std::string config = SampleConfig(preset);
  std::vector<ExpectedTensor> expected = ExpectedTensors(ParseModelConfig(config, "config.json"));
  std::uint64_t bytes[2] = {0, 0};
  for (const ExpectedTensor& tensor : expected) bytes[tensor.mtp ? 1 : 0] += BytesOf(tensor);

  SampleModel model;
  const std::uint32_t num_shards = sizes.body_shards + sizes.mtp_shards;
  for (std::uint32_t i = 0; i < num_shards; ++i) {
    model.shards.push_back({ShardName(i + 1, num_shards, sizes.shard_digits), {}, {}, 0});
  }
  ShardAssignment assignment(bytes[0], bytes[1], sizes);
  const auto assign = [&](const std::string& name, Dtype dtype, const formats::Shape& shape,
                          bool mtp) {
    const std::uint32_t shard = assignment.Next(mtp, formats::NumBytes(dtype, shape).value());
    model.shards[shard].tensors.push_back({name, dtype, shape, 0, 0});
    ++model.num_tensors;
    return shard;
  };
  std::vector<std::pair<std::uint32_t, std::uint32_t>> shard_of;  // of each tensor and its scale
  for (const ExpectedTensor& tensor : expected) {
    const std::uint32_t weight =
        assign(tensor.name, DtypeOf(tensor.role), tensor.shape, tensor.mtp);
    const std::uint32_t scale = IsQuantized(tensor.role)
                                    ? assign(ScaleNameOf(tensor.name, ScaleNaming::kScaleInv),
                                             Dtype::kF32, ScaleShape(tensor.shape), tensor.mtp)
                                    : weight;
    shard_of.emplace_back(weight, scale);
  }
  for (SampleShard& shard : model.shards) FinishShard(shard);

  // Only now, with the shards laid out, places are known.
  std::vector<std::map<std::string_view, std::uint64_t>> begins(num_shards);
  const bool sparse = preset == SamplePreset::kV3Shapes;  // nothing is written at the places
  for (std::size_t i = 0; i < num_shards && !sparse; ++i) {
    for (const auto& tensor : model.shards[i].tensors) begins[i][tensor.name] = tensor.begin;
  }
  const auto place = [&](std::uint32_t shard, const std::string& name) {
    return SamplePlace{shard, model.shards[shard].header.size() + begins[shard].at(name)};
  };
  for (std::size_t i = 0; i < expected.size() && !sparse; ++i) {
    ExpectedTensor& from = expected[i];
    SampleTensor tensor{from.name, from.shape, from.role, DtypeOf(from.role), {}, {}};
    tensor.place = place(shard_of[i].first, from.name);
    if (IsQuantized(from.role)) {
      tensor.scale = place(shard_of[i].second, ScaleNameOf(from.name, ScaleNaming::kScaleInv));
    }
    model.tensors.push_back(std::move(tensor));
  }

  model.ue8m0 = HasUe8m0Scales(preset);
  model.index = MakeIndex(model.shards);
  model.side_files = {{"config.json", config},
                      {"generation_config.json", GenerationConfig()},
                      {"tokenizer.json", SampleTokenizer()},
                      {"tokenizer_config.json", SampleTokenizerConfig()}};
  return model;
}

}  // namespace dsv3::convert

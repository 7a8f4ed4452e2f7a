#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "tests/convert/parallel/slicing_model.h"

namespace dsv3::convert {
namespace {

using testing::V3Config;

ModelConfig Parse(const nlohmann::json& json) {
  return ParseModelConfig(json.dump(), "config.json");
}

struct NameCase {
  const char* name;
  ModuleKind kind;
  SliceAxis axis;
  StageRule stage;
  const char* unit;
};

constexpr auto kRows = SliceAxis::kRows;
constexpr auto kCols = SliceAxis::kCols;
constexpr auto kNone = SliceAxis::kNone;
constexpr auto kLayer = StageRule::kLayer;

constexpr NameCase kNames[] = {
    {"model.embed_tokens.weight", ModuleKind::kEmbedding, kRows, StageRule::kFirst,
     "model.embed_tokens"},
    {"lm_head.weight", ModuleKind::kHead, kRows, StageRule::kLast, "lm_head"},
    {"model.norm.weight", ModuleKind::kOther, kNone, StageRule::kLast, ""},
    {"model.layers.61.embed_tokens.weight", ModuleKind::kEmbedding, kRows, kLayer,
     "model.layers.61.embed_tokens"},
    {"model.layers.61.shared_head.head.weight", ModuleKind::kHead, kRows, kLayer,
     "model.layers.61.shared_head.head"},
    {"model.layers.61.shared_head.norm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.61.eh_proj.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.61.enorm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.61.hnorm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.input_layernorm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.post_attention_layernorm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.q_proj.weight", ModuleKind::kAttention, kRows, kLayer,
     "model.layers.0.self_attn"},
    {"model.layers.0.self_attn.q_a_proj.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.q_a_proj.weight_scale_inv", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.q_a_layernorm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.q_b_proj.weight", ModuleKind::kAttention, kRows, kLayer,
     "model.layers.0.self_attn"},
    {"model.layers.0.self_attn.q_b_proj.weight_scale_inv", ModuleKind::kAttention, kRows, kLayer,
     "model.layers.0.self_attn"},
    {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.kv_a_layernorm.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.kv_b_proj.scale", ModuleKind::kAttention, kRows, kLayer,
     "model.layers.0.self_attn"},
    {"model.layers.0.self_attn.o_proj.bias", ModuleKind::kAttention, kCols, kLayer,
     "model.layers.0.self_attn"},
    {"model.layers.0.self_attn.rotary_emb.inv_freq", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.indexer.wq_b.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.indexer.wk.weight_scale_inv", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.indexer.weights_proj.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.self_attn.indexer.k_norm.bias", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.0.mlp.gate_proj.weight", ModuleKind::kDenseMlp, kRows, kLayer,
     "model.layers.0.mlp"},
    {"model.layers.0.mlp.up_proj.weight", ModuleKind::kDenseMlp, kRows, kLayer,
     "model.layers.0.mlp"},
    {"model.layers.0.mlp.down_proj.weight", ModuleKind::kDenseMlp, kCols, kLayer,
     "model.layers.0.mlp"},
    {"model.layers.3.mlp.gate.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.3.mlp.gate.e_score_correction_bias", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.3.mlp.shared_experts.gate_proj.weight", ModuleKind::kSharedExpert, kRows, kLayer,
     "model.layers.3.mlp.shared_experts"},
    {"model.layers.3.mlp.shared_experts.up_proj.weight", ModuleKind::kSharedExpert, kRows, kLayer,
     "model.layers.3.mlp.shared_experts"},
    {"model.layers.3.mlp.shared_experts.down_proj.weight", ModuleKind::kSharedExpert, kCols, kLayer,
     "model.layers.3.mlp.shared_experts"},
    {"model.layers.3.mlp.experts.17.gate_proj.weight", ModuleKind::kRoutedExpert, kRows, kLayer,
     "model.layers.3.mlp.experts"},
    {"model.layers.3.mlp.experts.17.up_proj.weight_scale", ModuleKind::kRoutedExpert, kRows, kLayer,
     "model.layers.3.mlp.experts"},
    {"model.layers.3.mlp.experts.17.down_proj.weight", ModuleKind::kRoutedExpert, kCols, kLayer,
     "model.layers.3.mlp.experts"},
    {"model.layers.3.mlp.experts.gate_up_proj", ModuleKind::kRoutedExpert, kNone, kLayer,
     "model.layers.3.mlp.experts"},
    {"model.layers.3.mlp.experts.down_proj_scale_inv", ModuleKind::kRoutedExpert, kNone, kLayer,
     "model.layers.3.mlp.experts"},
    // No rule knows these.
    {"model.layers.x.self_attn.q_b_proj.weight", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"model.layers.03.self_attn.q_b_proj.weight", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"model.layers.99999999999999999999.mlp.up_proj.weight", ModuleKind::kOther, kNone,
     StageRule::kAll, ""},
    {"model.layers.3", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"self_attn.q_b_proj.weight", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"vision.layers.3.self_attn.o_proj.weight", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"model.layers.3.attn.wq_b.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.3.ffn.experts.5.w1.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.3.mlp.gate_proj.lora.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"model.layers.3.mlp.experts.5.lora.up_proj.weight", ModuleKind::kRoutedExpert, kNone, kLayer,
     "model.layers.3.mlp.experts"},
    {"vision.norm.weight", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"weight", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"", ModuleKind::kOther, kNone, StageRule::kAll, ""},
    {"...", ModuleKind::kOther, kNone, StageRule::kAll, ""},
};

constexpr NameCase kV4Names[] = {
    {"embed.weight", ModuleKind::kEmbedding, kRows, StageRule::kFirst, "embed"},
    {"head.weight", ModuleKind::kHead, kRows, StageRule::kLast, "head"},
    {"norm.weight", ModuleKind::kOther, kNone, StageRule::kLast, ""},
    {"hc_head_fn", ModuleKind::kOther, kNone, StageRule::kLast, ""},
    {"layers.3.attn.wq_b.weight", ModuleKind::kAttention, kRows, kLayer, "layers.3.attn"},
    {"layers.3.attn.wo_a.scale", ModuleKind::kAttention, kRows, kLayer, "layers.3.attn"},
    {"layers.3.attn.wo_b.weight", ModuleKind::kAttention, kCols, kLayer, "layers.3.attn"},
    {"layers.3.attn.attn_sink", ModuleKind::kAttention, kRows, kLayer, "layers.3.attn"},
    {"layers.3.attn.wq_a.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.3.attn.wkv.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.4.attn.compressor.ape", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.4.attn.compressor.wkv.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.4.attn.indexer.wq_b.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.4.attn.indexer.compressor.wgate.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.2.ffn.gate.tid2eid", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.2.ffn.shared_experts.w3.weight", ModuleKind::kSharedExpert, kRows, kLayer,
     "layers.2.ffn.shared_experts"},
    {"layers.2.ffn.shared_experts.w2.weight", ModuleKind::kSharedExpert, kCols, kLayer,
     "layers.2.ffn.shared_experts"},
    {"layers.2.ffn.experts.17.w1.weight", ModuleKind::kRoutedExpert, kRows, kLayer,
     "layers.2.ffn.experts"},
    {"layers.2.ffn.experts.17.w2.scale", ModuleKind::kRoutedExpert, kCols, kLayer,
     "layers.2.ffn.experts"},
    {"mtp.0.ffn.experts.17.w3.weight", ModuleKind::kRoutedExpert, kRows, kLayer,
     "mtp.0.ffn.experts"},
    {"mtp.0.e_proj.weight", ModuleKind::kOther, kNone, kLayer, ""},
    {"layers.3.hc_attn_scale", ModuleKind::kOther, kNone, kLayer, ""},
};

TEST(PlaceOf, KnowsTheNamesOfV4) {
  const ModelConfig config = Parse(testing::V4FlashConfig());
  for (const NameCase& name : kV4Names) {
    SCOPED_TRACE(name.name);
    const TensorPlace place = PlaceOf(name.name, "", config);
    EXPECT_EQ(place.kind, name.kind);
    EXPECT_EQ(place.axis, name.axis);
    EXPECT_EQ(place.stage, name.stage);
    EXPECT_EQ(place.unit, name.unit);
  }
  const TensorPlace mtp = PlaceOf("mtp.0.ffn.experts.17.w3.weight", "", config);
  EXPECT_TRUE(mtp.mtp);
  EXPECT_EQ(mtp.layer, 43U);
  EXPECT_EQ(mtp.expert, 17U);
}

TEST(PlaceOf, KnowsEveryModule) {
  const ModelConfig config = Parse(V3Config());
  for (const NameCase& expected : kNames) {
    SCOPED_TRACE(expected.name);
    for (const std::string prefix : {"", "language_model."}) {
      const std::string name = prefix + expected.name;
      const TensorPlace place = PlaceOf(name, prefix, config);
      EXPECT_EQ(place.kind, expected.kind);
      EXPECT_EQ(place.axis, expected.axis);
      EXPECT_EQ(place.stage, expected.stage);
      EXPECT_EQ(place.unit, *expected.unit == '\0' ? "" : prefix + expected.unit);
    }
  }
}

// The table of DeepSeek's inference/convert.py: the module and the dimension that it cuts.
TEST(PlaceOf, AgreesWithTheOfficialTable) {
  constexpr int kWhole = -1;
  const std::map<std::string, int> dimensions = {{"embed_tokens", 0},
                                                 {"input_layernorm", kWhole},
                                                 {"post_attention_layernorm", kWhole},
                                                 {"q_proj", 0},
                                                 {"q_a_proj", kWhole},
                                                 {"q_a_layernorm", kWhole},
                                                 {"q_b_proj", 0},
                                                 {"kv_a_proj_with_mqa", kWhole},
                                                 {"kv_a_layernorm", kWhole},
                                                 {"kv_b_proj", 0},
                                                 {"o_proj", 1},
                                                 {"gate", kWhole},
                                                 {"gate_proj", 0},
                                                 {"down_proj", 1},
                                                 {"up_proj", 0},
                                                 {"norm", kWhole},
                                                 {"lm_head", 0}};
  nlohmann::json plain = testing::ShortV3Config();
  plain["q_lora_rank"] = nullptr;
  std::set<std::string> met;
  for (const nlohmann::json& json : {testing::ShortV3Config(), plain}) {
    const testing::ModelTensors model = testing::MakeModel(json);
    for (const CatalogTensor& tensor : model.catalog.tensors()) {
      const TensorPlace place = PlaceOf(tensor.name, "", model.config);
      if (place.mtp) continue;
      const auto found = dimensions.find(std::string(place.module));
      ASSERT_NE(found, dimensions.end()) << tensor.name;
      const SliceAxis axis = found->second == 0 ? kRows : found->second == 1 ? kCols : kNone;
      ASSERT_EQ(place.axis, axis) << tensor.name;
      met.insert(found->first);
    }
  }
  EXPECT_EQ(met.size(), dimensions.size());
}

TEST(PlaceOf, TellsTheParts) {
  const ModelConfig config = Parse(V3Config());
  const std::string name = "model.layers.61.mlp.experts.255.down_proj.weight_scale_inv";
  const TensorPlace place = PlaceOf(name, "", config);
  EXPECT_EQ(place.layer, 61U);
  EXPECT_EQ(place.expert, 255U);
  EXPECT_EQ(place.module, "down_proj");
  EXPECT_EQ(place.parameter, "weight_scale_inv");
  EXPECT_TRUE(place.mtp);
  EXPECT_EQ(place.unit.data(), name.data()) << "a view of the name";

  EXPECT_FALSE(PlaceOf("model.layers.60.mlp.gate.weight", "", config).mtp);
  EXPECT_EQ(PlaceOf("lm_head.weight", "", config).layer, std::nullopt);
  EXPECT_EQ(PlaceOf("lm_head.weight", "", config).module, "lm_head");
  EXPECT_EQ(PlaceOf("model.layers.3.mlp.experts.down_proj", "", config).expert, std::nullopt);
}

TEST(PlaceOf, KnowsMtpLayersByTheConfig) {
  nlohmann::json json = V3Config();
  json["num_hidden_layers"] = 78;
  const ModelConfig config = Parse(json);
  EXPECT_FALSE(PlaceOf("model.layers.61.enorm.weight", "", config).mtp);
  EXPECT_TRUE(PlaceOf("model.layers.78.enorm.weight", "", config).mtp);
  const TensorPlace v4 = PlaceOf("mtp.0.attn.wq_a.weight", "", config);
  EXPECT_TRUE(v4.mtp);
  EXPECT_EQ(v4.layer, 78U);
}

TEST(PlaceOf, LeavesWhatIsOutsideTheTextModelWhole) {
  const ModelConfig config = Parse(V3Config());
  const TensorPlace place =
      PlaceOf("vision_tower.layers.3.mlp.up_proj.weight", "language_model.", config);
  EXPECT_EQ(place.kind, ModuleKind::kOther);
  EXPECT_EQ(place.stage, StageRule::kAll);
  for (const char* name : {"model.layers.3.mlp.up_proj.weight", "lm_head.weight"}) {
    const TensorPlace other = PlaceOf(name, "language_model.", config);
    EXPECT_EQ(other.kind, ModuleKind::kOther) << name;
    EXPECT_EQ(other.stage, StageRule::kAll) << name;
    EXPECT_EQ(other.layer, std::nullopt) << name;
  }
}

TEST(PlaceOf, KeepsATiedEmbeddingWhereTheHeadIs) {
  nlohmann::json json = V3Config();
  json["tie_word_embeddings"] = true;
  const ModelConfig config = Parse(json);
  EXPECT_EQ(PlaceOf("model.embed_tokens.weight", "", config).stage, StageRule::kFirstAndLast);
  EXPECT_EQ(PlaceOf("model.layers.61.embed_tokens.weight", "", config).stage, StageRule::kLayer);
}

TEST(WaysOf, TakesTheGroupOfTheModule) {
  Topology topology;
  topology.tp = 2;
  topology.dense_tp = 3;
  topology.shared_expert_tp = 5;
  topology.embed_tp = 7;
  topology.moe_tp = 11;
  EXPECT_EQ(WaysOf(ModuleKind::kAttention, topology), 2U);
  EXPECT_EQ(WaysOf(ModuleKind::kDenseMlp, topology), 3U);
  EXPECT_EQ(WaysOf(ModuleKind::kSharedExpert, topology), 5U);
  EXPECT_EQ(WaysOf(ModuleKind::kEmbedding, topology), 7U);
  EXPECT_EQ(WaysOf(ModuleKind::kHead, topology), 7U);
  EXPECT_EQ(WaysOf(ModuleKind::kRoutedExpert, topology), 11U);
  EXPECT_EQ(WaysOf(ModuleKind::kOther, topology), 1U);
}

}  // namespace
}  // namespace dsv3::convert

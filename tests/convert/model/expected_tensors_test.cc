#include "convert/model/expected_tensors.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using formats::Shape;
using nlohmann::json;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ModelConfig Parse(const json& config) { return ParseModelConfig(config.dump(), "config.json"); }

std::map<std::string, ExpectedTensor> ByName(const json& config) {
  std::map<std::string, ExpectedTensor> result;
  for (auto& tensor : ExpectedTensors(Parse(config))) result[tensor.name] = tensor;
  return result;
}

std::uint64_t NumScales(const Shape& shape) {
  return ((shape[0] + 127) / 128) * ((shape[1] + 127) / 128);
}

TEST(ExpectedTensors, HasTheTensorsOfV4Flash) {
  const auto tensors = ByName(testing::V4FlashConfig());
  std::size_t scales = 0;
  for (const auto& [name, tensor] : tensors) scales += IsQuantized(tensor.role) ? 1 : 0;
  EXPECT_EQ(tensors.size() + scales, 69'187U);
  const auto shape = [&](const std::string& name) { return tensors.at(name).shape; };
  EXPECT_EQ(shape("layers.0.attn.wo_a.weight"), (Shape{8192, 4096}));
  EXPECT_EQ(shape("layers.0.attn.attn_sink"), Shape{64});
  EXPECT_EQ(shape("layers.2.attn.compressor.ape"), (Shape{4, 1024}));
  EXPECT_EQ(shape("layers.3.attn.compressor.ape"), (Shape{128, 512}));
  EXPECT_EQ(shape("layers.3.attn.compressor.wkv.weight"), (Shape{512, 4096}));
  EXPECT_EQ(shape("layers.4.attn.indexer.wq_b.weight"), (Shape{8192, 1024}));
  EXPECT_EQ(shape("layers.4.attn.indexer.compressor.wgate.weight"), (Shape{256, 4096}));
  EXPECT_EQ(shape("layers.2.ffn.gate.tid2eid"), (Shape{129280, 6}));
  EXPECT_EQ(shape("layers.3.ffn.gate.bias"), Shape{256});
  EXPECT_EQ(shape("layers.42.hc_ffn_fn"), (Shape{24, 16384}));
  EXPECT_EQ(shape("hc_head_fn"), (Shape{4, 16384}));
  EXPECT_EQ(shape("mtp.0.e_proj.weight"), (Shape{4096, 4096}));
  EXPECT_TRUE(tensors.at("mtp.0.hc_head_scale").mtp);
  EXPECT_EQ(tensors.count("layers.0.ffn.gate.bias"), 0U);
  EXPECT_EQ(tensors.count("layers.1.attn.compressor.ape"), 0U);
  EXPECT_EQ(tensors.count("layers.3.attn.indexer.wq_b.weight"), 0U);
  EXPECT_EQ(tensors.count("mtp.0.attn.compressor.ape"), 0U);
}

TEST(ExpectedTensors, LeavesOutTheDraftBesideV4) {
  json config = testing::V4FlashConfig();
  config["dspark_block_size"] = 5;
  for (const auto& [name, tensor] : ByName(config)) EXPECT_FALSE(tensor.mtp) << name;
}

TEST(ExpectedTensors, HasTheTensorsAndElementsOfV3) {
  const auto tensors = ExpectedTensors(Parse(testing::V3Config()));
  EXPECT_THAT(tensors, SizeIs(46'183));
  std::uint64_t scales = 0, main = 0, mtp = 0, scale_elements = 0;
  std::set<std::string> names;
  for (const auto& tensor : tensors) {
    names.insert(tensor.name);
    (tensor.mtp ? mtp : main) += formats::NumElements(tensor.shape).value();
    if (IsQuantized(tensor.role)) {
      ++scales;
      scale_elements += NumScales(tensor.shape);
    }
  }
  EXPECT_THAT(names, SizeIs(tensors.size()));
  EXPECT_EQ(tensors.size() + scales, 91'991U);
  EXPECT_EQ(main, 671'026'419'200U);
  EXPECT_EQ(mtp, 13'463'426'304U);
  EXPECT_EQ(main + mtp + scale_elements, 684'531'386'000U);
}

TEST(ExpectedTensors, HasTheShapesOfV3) {
  const auto t = ByName(testing::V3Config());
  const std::string a = "model.layers.0.self_attn.";
  EXPECT_EQ(t.at(a + "q_a_proj.weight").shape, (Shape{1536, 7168}));
  EXPECT_EQ(t.at(a + "q_a_layernorm.weight").shape, (Shape{1536}));
  EXPECT_EQ(t.at(a + "q_b_proj.weight").shape, (Shape{24576, 1536}));
  EXPECT_EQ(t.at(a + "kv_a_proj_with_mqa.weight").shape, (Shape{576, 7168}));
  EXPECT_EQ(t.at(a + "kv_a_layernorm.weight").shape, (Shape{512}));
  EXPECT_EQ(t.at(a + "kv_b_proj.weight").shape, (Shape{32768, 512}));
  EXPECT_EQ(t.at(a + "o_proj.weight").shape, (Shape{7168, 16384}));
  EXPECT_EQ(t.at("model.layers.2.mlp.down_proj.weight").shape, (Shape{7168, 18432}));
  EXPECT_EQ(t.at("model.layers.3.mlp.gate.weight").shape, (Shape{256, 7168}));
  EXPECT_EQ(t.at("model.layers.3.mlp.gate.e_score_correction_bias").shape, (Shape{256}));
  EXPECT_EQ(t.at("model.layers.60.mlp.experts.255.up_proj.weight").shape, (Shape{2048, 7168}));
  EXPECT_EQ(t.at("model.layers.61.mlp.shared_experts.down_proj.weight").shape, (Shape{7168, 2048}));
  EXPECT_EQ(t.at("model.layers.61.eh_proj.weight").shape, (Shape{7168, 14336}));
  EXPECT_EQ(t.at("model.layers.61.shared_head.head.weight").shape, (Shape{129280, 7168}));
  EXPECT_EQ(t.count("model.layers.0.mlp.gate.weight"), 0U);
  EXPECT_EQ(t.count("model.layers.60.enorm.weight"), 0U);
}

TEST(ExpectedTensors, TellsRolesLayersAndMtp) {
  const auto t = ByName(testing::SmallConfig());
  const auto& head = t.at("lm_head.weight");
  EXPECT_EQ(head.role, TensorRole::kHead);
  EXPECT_EQ(head.layer, ExpectedTensor::kNoLayer);
  EXPECT_FALSE(head.mtp);
  const auto& expert = t.at("model.layers.2.mlp.experts.3.down_proj.weight");
  EXPECT_EQ(expert.role, TensorRole::kExpertLinear);
  EXPECT_EQ(expert.layer, 2U);
  EXPECT_TRUE(expert.mtp) << "the MTP layer's index is num_hidden_layers";
  EXPECT_EQ(t.at("model.layers.2.eh_proj.weight").role, TensorRole::kUnquantizedLinear);
  EXPECT_EQ(t.at("model.layers.1.mlp.gate.e_score_correction_bias").role, TensorRole::kRouterBias);
}

TEST(ExpectedTensors, KeepsTheModelsOrder) {
  json config = testing::SmallConfig();
  config["n_routed_experts"] = 1;
  std::vector<std::string> names;
  for (const auto& tensor : ExpectedTensors(Parse(config))) names.push_back(tensor.name);
  const auto at = [&](const char* name) { return std::find(names.begin(), names.end(), name); };
  EXPECT_EQ(names.front(), "model.embed_tokens.weight");
  EXPECT_LT(at("model.layers.1.input_layernorm.weight"), at("model.norm.weight"));
  EXPECT_LT(at("lm_head.weight"), at("model.layers.2.input_layernorm.weight"));
}

TEST(ExpectedTensors, HasPlainQueryProjectionWithoutRank) {
  json config = testing::SmallConfig();
  config["q_lora_rank"] = nullptr;
  const auto t = ByName(config);
  EXPECT_EQ(t.at("model.layers.0.self_attn.q_proj.weight").shape, (Shape{10, 8}));
  EXPECT_EQ(t.count("model.layers.0.self_attn.q_a_proj.weight"), 0U);
  EXPECT_EQ(t.count("model.layers.0.self_attn.q_a_layernorm.weight"), 0U);
}

TEST(ExpectedTensors, WidensSharedExperts) {
  json config = testing::SmallConfig();
  config["n_shared_experts"] = 2;
  const auto t = ByName(config);
  EXPECT_EQ(t.at("model.layers.1.mlp.shared_experts.gate_proj.weight").shape, (Shape{12, 8}));
}

TEST(ExpectedTensors, HasIndexerOfV32) {
  json config = testing::SmallConfig();
  config.update({{"model_type", "deepseek_v32"}, {"index_n_heads", 3}, {"index_head_dim", 4}});
  const auto t = ByName(config);
  const std::string p = "model.layers.2.self_attn.indexer.";
  EXPECT_EQ(t.at(p + "wq_b.weight").shape, (Shape{12, 5}));
  EXPECT_EQ(t.at(p + "wk.weight").shape, (Shape{4, 8}));
  EXPECT_EQ(t.at(p + "k_norm.weight").shape, (Shape{4}));
  EXPECT_EQ(t.at(p + "k_norm.bias").shape, (Shape{4}));
  EXPECT_EQ(t.at(p + "weights_proj.weight").shape, (Shape{3, 8}));
  EXPECT_FALSE(IsQuantized(t.at(p + "weights_proj.weight").role));
  EXPECT_TRUE(IsQuantized(t.at(p + "wk.weight").role));
}

TEST(ExpectedTensors, FollowsTheSwitchesOfTheConfig) {
  json config = testing::SmallConfig();
  config.update({{"attention_bias", true}, {"tie_word_embeddings", true}, {"moe_layer_freq", 2}});
  const auto t = ByName(config);
  EXPECT_EQ(t.at("model.layers.0.self_attn.q_a_proj.bias").shape, (Shape{5}));
  EXPECT_EQ(t.at("model.layers.0.self_attn.kv_a_proj_with_mqa.bias").shape, (Shape{6}));
  EXPECT_EQ(t.at("model.layers.0.self_attn.o_proj.bias").shape, (Shape{8}));
  EXPECT_EQ(t.count("lm_head.weight"), 0U);
  EXPECT_EQ(t.count("model.layers.1.mlp.gate_proj.weight"), 1U) << "odd layers are dense";
  EXPECT_EQ(t.count("model.layers.2.mlp.gate.weight"), 1U);
}

TEST(ExpectedTensors, IsEmptyForUnknownModels) {
  EXPECT_THAT(ExpectedTensors(Parse({{"model_type", "llama"}})), IsEmpty());
}

}  // namespace
}  // namespace dsv3::convert

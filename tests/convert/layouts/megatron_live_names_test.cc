#include "convert/layouts/megatron_live_names.h"

#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

TEST(MegatronLiveNames, CountLayers) {
  EXPECT_EQ(MegatronLayer("decoder.layers.12.input_layernorm.weight"), 12U);
  EXPECT_EQ(WithMegatronLayer("decoder.layers.12.mlp.router.weight", 3),
            "decoder.layers.3.mlp.router.weight");
  for (const char* name :
       {"decoder.layers.input_layernorm.weight", "decoder.final_layernorm.weight",
        "mtp.layers.0.enorm.weight", "decoder.layers.1x.weight", "decoder.layers.",
        "decoder.layers.99999999999999999999.weight", "x.decoder.layers.1.weight"}) {
    EXPECT_FALSE(MegatronLayer(name)) << name;
    EXPECT_EQ(WithMegatronLayer(name, 3), name);
  }
}

TEST(MegatronLiveNames, CountExperts) {
  EXPECT_EQ(MegatronExpert("decoder.layers.1.mlp.experts.linear_fc1.weight30"), 30U);
  EXPECT_EQ(WithMegatronExpert("decoder.layers.1.mlp.experts.linear_fc2.weight30", 158),
            "decoder.layers.1.mlp.experts.linear_fc2.weight158");
  EXPECT_EQ(
      WithMegatronExpert("decoder.layers.1.mlp.experts.local_experts.7.linear_fc1.weight", 71),
      "decoder.layers.1.mlp.experts.local_experts.71.linear_fc1.weight");
  for (const char* name : {"decoder.layers.1.mlp.experts.experts.linear_fc1.weight",
                           "decoder.layers.1.mlp.router.weight",
                           "decoder.layers.1.mlp.shared_experts.linear_fc1.weight",
                           "decoder.layers.1.mlp.experts.linear_fc1.weight3_w"}) {
    EXPECT_FALSE(MegatronExpert(name)) << name;
    EXPECT_EQ(WithMegatronExpert(name, 3), name);
  }
}

TEST(MegatronLiveNames, SayHowATensorIsCut) {
  const ModelConfig config = ParseModelConfig(testing::V3Config().dump(), "config.json");
  const std::pair<const char*, MegatronCut> cuts[] = {
      {"embedding.word_embeddings.weight", MegatronCut::kRows},
      {"output_layer.weight", MegatronCut::kRows},
      {"decoder.final_layernorm.weight", MegatronCut::kWhole},
      {"decoder.layers.0.self_attention.linear_q_up_proj.weight", MegatronCut::kRows},
      {"decoder.layers.0.self_attention.linear_q_up_proj.layer_norm_weight", MegatronCut::kWhole},
      {"decoder.layers.0.self_attention.linear_kv_up_proj.weight", MegatronCut::kRows},
      {"decoder.layers.0.self_attention.linear_proj.weight", MegatronCut::kColumns},
      {"decoder.layers.0.mlp.linear_fc1.weight", MegatronCut::kGateUp},
      {"decoder.layers.0.mlp.linear_fc1.layer_norm_weight", MegatronCut::kWhole},
      {"decoder.layers.0.mlp.linear_fc2.weight", MegatronCut::kColumns},
      {"decoder.layers.3.mlp.shared_experts.linear_fc1.weight", MegatronCut::kGateUp},
      {"decoder.layers.3.mlp.experts.linear_fc1.weight7", MegatronCut::kGateUp},
      {"decoder.layers.3.mlp.experts.linear_fc2.weight7", MegatronCut::kColumns},
      {"decoder.layers.3.mlp.experts.local_experts.7.linear_fc2.weight", MegatronCut::kColumns},
      {"decoder.layers.3.mlp.router.weight", MegatronCut::kWhole},
      {"decoder.layers.3.mlp.router.expert_bias", MegatronCut::kWhole},
      {"mtp.layers.0.eh_proj.weight", MegatronCut::kRows},
      {"mtp.layers.0.enorm.weight", MegatronCut::kWhole},
  };
  for (const auto& [name, cut] : cuts) EXPECT_EQ(MegatronCutOf(name, {8, 8}, config), cut) << name;
}

TEST(MegatronLiveNames, SeeByTheRowsWhetherADownProjectionIsCut) {
  const ModelConfig config = ParseModelConfig(testing::V3Config().dump(), "config.json");
  const std::pair<const char*, std::uint64_t> rows[] = {
      {"linear_q_down_proj", 1536}, {"linear_kv_down_proj", 576}, {"linear_qkv_down_proj", 2112}};
  for (const auto& [linear, all] : rows) {
    const std::string name = "decoder.layers.0.self_attention." + std::string(linear) + ".weight";
    EXPECT_EQ(MegatronCutOf(name, {all, 7168}, config), MegatronCut::kWhole) << name;
    EXPECT_EQ(MegatronCutOf(name, {all / 2, 7168}, config), MegatronCut::kRows) << name;
  }
}

}  // namespace
}  // namespace dsv3::convert

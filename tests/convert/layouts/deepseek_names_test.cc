#include "convert/layouts/deepseek_names.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/layouts/read_layout.h"
#include "convert/layouts/scaled_layout.h"
#include "formats/error.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using dsv3::testing::ErrorOf;
using ::testing::HasSubstr;

TEST(DeepseekNames, FollowTheOfficialTable) {
  const std::pair<const char*, const char*> names[] = {
      {"model.embed_tokens.weight", "embed.weight"},
      {"model.norm.weight", "norm.weight"},
      {"lm_head.weight", "head.weight"},
      {"model.layers.0.input_layernorm.weight", "layers.0.attn_norm.weight"},
      {"model.layers.0.post_attention_layernorm.weight", "layers.0.ffn_norm.weight"},
      {"model.layers.0.self_attn.q_proj.weight", "layers.0.attn.wq.weight"},
      {"model.layers.0.self_attn.q_a_proj.weight", "layers.0.attn.wq_a.weight"},
      {"model.layers.0.self_attn.q_a_layernorm.weight", "layers.0.attn.q_norm.weight"},
      {"model.layers.0.self_attn.q_b_proj.weight_scale_inv", "layers.0.attn.wq_b.scale"},
      {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "layers.0.attn.wkv_a.weight"},
      {"model.layers.0.self_attn.kv_a_layernorm.weight", "layers.0.attn.kv_norm.weight"},
      {"model.layers.0.self_attn.kv_b_proj.weight", "layers.0.attn.wkv_b.weight"},
      {"model.layers.0.self_attn.o_proj.weight_scale_inv", "layers.0.attn.wo.scale"},
      {"model.layers.0.mlp.gate_proj.weight", "layers.0.ffn.w1.weight"},
      {"model.layers.0.mlp.down_proj.weight", "layers.0.ffn.w2.weight"},
      {"model.layers.0.mlp.up_proj.weight_scale_inv", "layers.0.ffn.w3.scale"},
      {"model.layers.3.mlp.gate.weight", "layers.3.ffn.gate.weight"},
      {"model.layers.3.mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias"},
      {"model.layers.3.mlp.experts.17.up_proj.weight", "layers.3.ffn.experts.17.w3.weight"},
      {"model.layers.3.mlp.shared_experts.gate_proj.weight",
       "layers.3.ffn.shared_experts.w1.weight"},
      {"model.layers.3.self_attn.indexer.wq_b.weight_scale_inv",
       "layers.3.attn.indexer.wq_b.scale"},
      {"model.layers.3.self_attn.indexer.wk.weight", "layers.3.attn.indexer.wk.weight"},
      {"model.layers.3.self_attn.indexer.k_norm.bias", "layers.3.attn.indexer.k_norm.bias"},
      {"model.layers.3.self_attn.indexer.weights_proj.weight",
       "layers.3.attn.indexer.weights_proj.weight"},
  };
  for (const auto& [from, to] : names) {
    EXPECT_EQ(DeepseekName(from, false), to);
    EXPECT_EQ(HuggingFaceName(to), from);
  }
}

TEST(DeepseekNames, GoBackOnlyFromNamesThatTheDemoHas) {
  EXPECT_EQ(HuggingFaceName("layers.61.embed.weight"), "model.layers.61.embed_tokens.weight");
  EXPECT_EQ(HuggingFaceName("layers.61.shared_head.head.weight"),
            "model.layers.61.shared_head.head.weight");
  for (const char* name :
       {"layers.0.attn.wq_c.weight", "weight", "", ".", "layers.0.ffn.w1.weight_scale_inv",
        "model.layers.0.self_attn.o_proj.weight", "layers.0.attn.compressor.wkv.weight"}) {
    EXPECT_THAT(ErrorOf([&] { HuggingFaceName(name); }).message(),
                HasSubstr("its Hugging Face name is not known"))
        << name;
  }
}

TEST(DeepseekNames, KnowWhatIsCutAndHow) {
  EXPECT_EQ(DeepseekCutDimension("model.layers.0.self_attn.q_b_proj.weight_scale_inv"), 0U);
  EXPECT_EQ(DeepseekCutDimension("lm_head.weight"), 0U);
  EXPECT_EQ(DeepseekCutDimension("model.layers.0.mlp.shared_experts.down_proj.weight"), 1U);
  EXPECT_FALSE(DeepseekCutDimension("model.layers.3.mlp.gate.weight"));
  EXPECT_FALSE(DeepseekCutDimension("model.layers.3.self_attn.indexer.wq_b.weight"));
  EXPECT_TRUE(IsRoutedExpert("model.layers.3.mlp.experts.1.up_proj.weight"));
  EXPECT_FALSE(IsRoutedExpert("model.layers.3.mlp.shared_experts.up_proj.weight"));
}

TEST(DeepseekNames, KnowTheDemosFiles) {
  EXPECT_EQ(DemoRanks({"model0-mp2.safetensors", "model1-mp2.safetensors"}), 2U);
  EXPECT_EQ(DemoRanks({"model3-mp16.safetensors"}), 16U);
  EXPECT_FALSE(DemoRanks({}));
  for (const char* name :
       {"model.safetensors", "model2-mp2.safetensors", "model-mp2.safetensors",
        "model0-mp.safetensors", "model0-mpx.safetensors", "model0-mp2.bin",
        "model0-mp99999999999999999999.safetensors", "model-00001-of-00002.safetensors"}) {
    EXPECT_FALSE(DemoRanks({name})) << name;
  }
  EXPECT_FALSE(DemoRanks({"model0-mp2.safetensors", "model1-mp4.safetensors"}));
  EXPECT_FALSE(DemoRanks({"model0-mp1.safetensors", "other.safetensors"}));
}

// Every occurrence of the segment is replaced, as str.replace does.
TEST(DeepseekNames, ReplaceEveryOccurrence) {
  EXPECT_EQ(DeepseekName("model.o_proj.o_proj.weight", false), "wo.wo.weight");
  EXPECT_EQ(DeepseekName("model.mlp.self_attn.norm.weight_scale_inv", false),
            "ffn.attn.norm.scale");
}

TEST(DeepseekNames, KeepWhatOnlyMtpLayersHave) {
  const std::pair<const char*, const char*> names[] = {
      {"model.layers.61.enorm.weight", "layers.61.enorm.weight"},
      {"model.layers.61.hnorm.weight", "layers.61.hnorm.weight"},
      {"model.layers.61.eh_proj.weight", "layers.61.eh_proj.weight"},
      {"model.layers.61.shared_head.head.weight", "layers.61.shared_head.head.weight"},
      {"model.layers.61.shared_head.norm.weight", "layers.61.shared_head.norm.weight"},
      {"model.layers.61.embed_tokens.weight", "layers.61.embed.weight"},
      {"model.layers.61.self_attn.o_proj.weight", "layers.61.attn.wo.weight"},
  };
  for (const auto& [from, to] : names) EXPECT_EQ(DeepseekName(from, true), to);
}

TEST(DeepseekNames, RejectModulesThatTheTableLacks) {
  for (const char* const name :
       {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.61.enorm.weight", "weight"}) {
    const Error error = ErrorOf([&] { DeepseekName(name, false); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << name;
    EXPECT_THAT(error.message(), HasSubstr(name));
    EXPECT_THAT(error.message(), HasSubstr("--format hf-rank"));
  }
}

TEST(DeepseekNames, FilesCountFromZero) {
  EXPECT_EQ(DeepseekFileName(0, 1), "model0-mp1.safetensors");
  EXPECT_EQ(DeepseekFileName(15, 16), "model15-mp16.safetensors");
}

TEST(DeepseekNames, AreALayoutWithScales) {
  const ModelConfig config = ParseModelConfig(testing::SmallConfig().dump(), "config.json");
  std::vector<StackTensor> model;
  for (const StackTensor& tensor : ModelTensorsOf(config)) {
    model.push_back(tensor);
    if (tensor.name.ends_with("o_proj.weight")) {
      model.push_back({tensor.name + "_scale_inv", {1, 1}});
    }
  }
  std::vector<StackTensor> demo;
  for (const ComposedTensor& tensor : WriteScaledLayout(DeepseekNames(), config, model)) {
    const StackTensor& source = model[tensor.parts.at(0).source];
    EXPECT_EQ(tensor.name, DeepseekName(source.name, true));
    EXPECT_EQ(tensor.shape, source.shape);
    demo.push_back({tensor.name, tensor.shape});
  }
  const LayoutReading reading = ReadScaledLayout(DeepseekNames(), config, demo);
  ASSERT_EQ(reading.tensors.size(), model.size());
  for (std::size_t i = 0; i < model.size(); ++i) {
    EXPECT_EQ(reading.tensors[i].name, model[i].name);
    EXPECT_EQ(reading.tensors[i].parts.at(0).source, i);
  }
  demo.push_back({"layers.0.attn.wq_c.weight", {1}});
  EXPECT_THAT(ErrorOf([&] { ReadScaledLayout(DeepseekNames(), config, demo); }).message(),
              HasSubstr("'layers.0.attn.wq_c.weight'"));
}

}  // namespace
}  // namespace dsv3::convert

// DeepSeek-V4 under the names, and with the config, that transformers 5 saves.

#include "convert/model/v4_tensors.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/model/expected_tensors.h"
#include "convert/model/model_check.h"
#include "convert/parallel/slicing.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ModelConfig Parse(const json& config) { return ParseModelConfig(config.dump(), "config.json"); }

json ReleasedConfig() {
  json config = testing::V4FlashConfig();
  config.update({{"num_hidden_layers", 5}, {"n_routed_experts", 2}, {"num_experts_per_tok", 1}});
  config["compress_ratios"] = {0, 128, 4, 128, 4, 0};
  return config;
}

json TransformersConfig() {
  json config = ReleasedConfig();
  config.erase("compress_ratios");
  config.erase("num_hash_layers");
  config["compress_rates"] = {{"compressed_sparse_attention", 4},
                              {"heavily_compressed_attention", 128}};
  config["layer_types"] = {"sliding_attention", "heavily_compressed_attention",
                           "compressed_sparse_attention", "heavily_compressed_attention",
                           "compressed_sparse_attention"};
  config["mlp_layer_types"] = {"hash_moe", "hash_moe", "hash_moe", "moe", "moe"};
  return config;
}

std::vector<ExpectedTensor> Predicted(const ModelConfig& config, const std::string& prefix) {
  std::vector<ExpectedTensor> tensors;
  ForEachExpected(config, prefix, [&](const ExpectedTensorView& view) {
    tensors.push_back({std::string(view.name),
                       {view.shape.begin(), view.shape.end()},
                       view.role,
                       view.layer,
                       view.mtp});
  });
  return tensors;
}

Catalog CatalogOf(const std::vector<ExpectedTensor>& expected) {
  std::vector<CatalogTensor> tensors;
  tensors.reserve(expected.size());
  for (const ExpectedTensor& tensor : expected) {
    tensors.push_back({tensor.name, Dtype::kBF16, tensor.shape, {}});
  }
  SourceFile file;
  file.name = "model.safetensors";
  return Catalog({file}, std::move(tensors));
}

TEST(V4Tensors, BothSpellingsAreTheSameTensors) {
  std::vector<std::pair<std::string, formats::Shape>> renamed;
  for (const ExpectedTensor& tensor : ExpectedTensors(Parse(ReleasedConfig()))) {
    // transformers saves no MTP layers.
    if (!tensor.mtp) renamed.emplace_back(V4Name("model.", tensor.name), tensor.shape);
  }
  std::vector<std::pair<std::string, formats::Shape>> expected;
  for (const ExpectedTensor& tensor : Predicted(Parse(TransformersConfig()), "model.")) {
    expected.emplace_back(tensor.name, tensor.shape);
  }
  EXPECT_EQ(expected, renamed);
  EXPECT_EQ(Parse(TransformersConfig()).v4->num_hash_layers, 3U);
}

TEST(V4Tensors, NamesDifferInAFew) {
  EXPECT_EQ(V4Name("", "layers.3.attn.kv_norm.weight"), "layers.3.attn.kv_norm.weight");
  EXPECT_EQ(V4Name("model.", "layers.3.attn.kv_norm.weight"), "model.layers.3.attn.norm.weight");
  EXPECT_EQ(V4Name("model.", "layers.3.attn.compressor.norm.weight"),
            "model.layers.3.attn.compressor.norm.weight");
  EXPECT_EQ(V4Name("model.", "embed.weight"), "model.embed_tokens.weight");
  EXPECT_EQ(V4Name("model.", "hc_head_base"), "model.hc_head.hc_base");
  EXPECT_EQ(V4Name("model.", "head.weight"), "head.weight");
  EXPECT_EQ(V4Name("language_model.model.", "head.weight"), "language_model.head.weight");
  EXPECT_EQ(V4Name("language_model.", "head.weight"), "language_model.head.weight");
}

TEST(V4Tensors, ThePrefixSaysTheSpelling) {
  const ModelConfig config = Parse(TransformersConfig());
  for (const std::string prefix : {"model.", "language_model.model."}) {
    const Catalog catalog = CatalogOf(Predicted(config, prefix));
    EXPECT_EQ(FindNamePrefix(catalog), prefix);
    EXPECT_THAT(CheckAgainstModel(config, catalog), IsEmpty());
  }
  const ModelConfig released = Parse(ReleasedConfig());
  EXPECT_EQ(FindNamePrefix(CatalogOf(ExpectedTensors(released))), "");
  EXPECT_THAT(CheckAgainstModel(released, CatalogOf(ExpectedTensors(released))), IsEmpty());
}

TEST(V4Tensors, AMissingTensorHasItsOwnSpelling) {
  const ModelConfig config = Parse(TransformersConfig());
  std::vector<ExpectedTensor> tensors = Predicted(config, "model.");
  std::erase_if(tensors, [](const ExpectedTensor& tensor) {
    return tensor.name == "model.layers.4.attn.norm.weight";
  });
  const formats::Findings findings = CheckAgainstModel(config, CatalogOf(tensors));
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].kind, "missing-tensor");
  EXPECT_EQ(findings[0].tensor, "model.layers.4.attn.norm.weight");
  EXPECT_THAT(findings[0].message, ::testing::Not(HasSubstr("num_nextn_predict_layers")));
}

// Each tensor is cut as the same tensor of the releases.
TEST(V4Tensors, BothSpellingsAreCutTheSameWay) {
  const ModelConfig config = Parse(ReleasedConfig());
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    if (tensor.mtp) continue;
    const TensorPlace released = PlaceOf(tensor.name, "", config);
    const TensorPlace renamed = PlaceOf(V4Name("model.", tensor.name), "model.", config);
    EXPECT_EQ(renamed.kind, released.kind) << tensor.name;
    EXPECT_EQ(renamed.axis, released.axis) << tensor.name;
    EXPECT_EQ(renamed.layer, released.layer) << tensor.name;
    EXPECT_EQ(renamed.expert, released.expert) << tensor.name;
    EXPECT_EQ(renamed.stage, released.stage) << tensor.name;
  }
}

TEST(V4Tensors, NamesOfModulesAreOneError) {
  const ModelConfig config = Parse(TransformersConfig());
  std::vector<CatalogTensor> tensors = {
      {"model.embed_tokens.weight", Dtype::kBF16, {129280, 4096}, {}},
      {"model.hc_head.hc_fn", Dtype::kF32, {4, 16384}, {}},
      {"model.layers.0.input_layernorm.weight", Dtype::kBF16, {4096}, {}},
      {"model.layers.0.attn_hc.fn", Dtype::kF32, {24, 16384}, {}},
      {"model.layers.0.self_attn.kv_proj.weight", Dtype::kBF16, {512, 4096}, {}}};
  SourceFile file;
  file.name = "model.safetensors";
  const Catalog catalog({file}, std::move(tensors));
  const formats::Findings findings = CheckAgainstModel(config, catalog);
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].kind, "module-names");
  EXPECT_THAT(findings[0].message, HasSubstr("save_original_format=False"));
}

std::string ErrorOfConfig(const char* field, const json& value) {
  json config = TransformersConfig();
  config[field] = value;
  return ::dsv3::testing::ErrorOf([&] { Parse(config); }).message();
}

TEST(V4Tensors, RefusesConfigsOfTransformersThatContradictThemselves) {
  EXPECT_THAT(ErrorOfConfig("layer_types", {"sliding_attention"}), HasSubstr("has 1 entries"));
  EXPECT_THAT(ErrorOfConfig("layer_types", 3), HasSubstr("a string for each layer"));
  EXPECT_THAT(
      ErrorOfConfig("layer_types", {"sliding_attention", "linear_attention", "sliding_attention",
                                    "sliding_attention", "sliding_attention"}),
      HasSubstr("linear_attention"));
  EXPECT_THAT(ErrorOfConfig("compress_rates", {{"compressed_sparse_attention", 4}}),
              HasSubstr("heavily_compressed_attention"));
  EXPECT_THAT(ErrorOfConfig("compress_rates", {{"compressed_sparse_attention", 0},
                                               {"heavily_compressed_attention", 128}}),
              HasSubstr("compressed_sparse_attention"));
  EXPECT_THAT(ErrorOfConfig("compress_rates", {{"compressed_sparse_attention", 128},
                                               {"heavily_compressed_attention", 128}}),
              HasSubstr("another number for heavily_compressed_attention"));
  EXPECT_THAT(ErrorOfConfig("mlp_layer_types", {"moe", "hash_moe", "moe", "moe", "moe"}),
              HasSubstr("hash_moe first"));
  EXPECT_THAT(ErrorOfConfig("mlp_layer_types", {"hash_moe", "dense", "moe", "moe", "moe"}),
              HasSubstr("mlp_layer_types"));
}

}  // namespace
}  // namespace dsv3::convert

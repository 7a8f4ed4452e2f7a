#include "convert/model/layer_kinds.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "formats/error.h"
#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// GLM-5 with five main layers and an MTP layer, as transformers saves it: without
// first_k_dense_replace and moe_layer_freq.
json Glm(const json& changes) {
  json config = testing::SmallConfig();
  config.erase("first_k_dense_replace");
  config.erase("moe_layer_freq");
  config.update({{"model_type", "glm_moe_dsa"},
                 {"num_hidden_layers", 5},
                 {"index_n_heads", 3},
                 {"index_head_dim", 4}});
  config.update(changes);
  return config;
}

ModelConfig Parse(const json& config) { return ParseModelConfig(config.dump(), "config.json"); }

std::string ErrorOf(const json& config) {
  try {
    Parse(config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().file, "config.json");
    return error.message();
  }
  return "no error";
}

std::vector<std::uint64_t> MoeLayers(const ModelConfig& config) {
  std::vector<std::uint64_t> layers;
  for (std::uint64_t i = 0; i < config.num_hidden_layers + config.num_nextn_predict_layers; ++i) {
    if (IsMoeLayer(config, i)) layers.push_back(i);
  }
  return layers;
}

// By the tensors that are predicted, which must agree with HasIndexer.
std::vector<std::uint64_t> IndexerLayers(const ModelConfig& config) {
  std::vector<std::uint64_t> layers;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    if (tensor.name.ends_with(".indexer.wk.weight")) layers.push_back(tensor.layer);
  }
  std::vector<std::uint64_t> stated;
  for (std::uint64_t i = 0; i < config.num_hidden_layers + config.num_nextn_predict_layers; ++i) {
    if (HasIndexer(config, i)) stated.push_back(i);
  }
  EXPECT_EQ(layers.size(), stated.size());
  return layers;
}

json Words(const std::string& letters, const std::string& yes, const std::string& no) {
  json words = json::array();
  for (const char letter : letters) words.push_back(letter == 'y' ? yes : no);
  return words;
}
json Mlp(const std::string& letters) { return Words(letters, "sparse", "dense"); }
json Indexers(const std::string& letters) { return Words(letters, "full", "shared"); }

TEST(LayerKinds, FollowTheNumbersWhereThereIsNoList) {
  EXPECT_THAT(MoeLayers(Parse(Glm({{"first_k_dense_replace", 2}}))), ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(MoeLayers(Parse(Glm({{"first_k_dense_replace", 1}, {"moe_layer_freq", 2}}))),
              ElementsAre(2, 4));
  EXPECT_THAT(MoeLayers(Parse(Glm(json::object()))), ElementsAre(3, 4, 5)) << "GLM-5's default, 3";
  EXPECT_THAT(MoeLayers(Parse(Glm({{"n_routed_experts", 0}}))), IsEmpty());
}

TEST(LayerKinds, FollowMlpLayerTypes) {
  EXPECT_THAT(MoeLayers(Parse(Glm({{"mlp_layer_types", Mlp("nyyyy")}}))),
              ElementsAre(1, 2, 3, 4, 5));
  const ModelConfig mixed = Parse(Glm({{"mlp_layer_types", Mlp("nnyny")}}));
  EXPECT_THAT(MoeLayers(mixed), ElementsAre(2, 4, 5)) << "the MTP layer has experts";
  EXPECT_EQ(FirstMoeLayer(mixed), 2U);
  EXPECT_TRUE(HasDenseLayers(mixed));
  EXPECT_FALSE(HasDenseLayers(Parse(Glm({{"mlp_layer_types", Mlp("yyyyy")}}))));
  const ModelConfig dense = Parse(Glm({{"mlp_layer_types", Mlp("nnnnn")}}));
  EXPECT_THAT(MoeLayers(dense), ElementsAre(5));
  EXPECT_THAT(MoeLayers(Parse(Glm({{"mlp_layer_types", nullptr}}))), ElementsAre(3, 4, 5));
}

TEST(LayerKinds, FollowAListOfFrequencies) {
  for (const json& list : {json{0, 0, 1, 0, 1}, json{false, false, true, false, true}}) {
    EXPECT_THAT(MoeLayers(Parse(Glm({{"moe_layer_freq", list}}))), ElementsAre(2, 4, 5));
  }
  EXPECT_THAT(
      MoeLayers(Parse(Glm({{"moe_layer_freq", {0, 1, 1, 1, 1}}, {"first_k_dense_replace", 1}}))),
      ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(ErrorOf(Glm({{"moe_layer_freq", {0, 1, 1, 1, 1}}, {"first_k_dense_replace", 3}})),
              AllOf(HasSubstr("'moe_layer_freq' says that layer 1 is \"sparse\""),
                    HasSubstr("'first_k_dense_replace' is 3")));
  EXPECT_THAT(
      ErrorOf(Glm({{"moe_layer_freq", {0, 1, 1, 1, 1}}, {"mlp_layer_types", Mlp("nnyyy")}})),
      HasSubstr("'mlp_layer_types' and 'moe_layer_freq' say different things"));
  EXPECT_THAT(ErrorOf(Glm({{"moe_layer_freq", {0, 1}}})),
              HasSubstr("'moe_layer_freq' has 2 entries, but num_hidden_layers is 5"));
  EXPECT_THAT(ErrorOf(Glm({{"moe_layer_freq", {0, 1, 2, 1, 1}}})),
              HasSubstr("a number, or an array with 0 or 1 for each layer"));
}

TEST(LayerKinds, TakeAListThatAgreesWithTheNumbers) {
  EXPECT_THAT(
      MoeLayers(Parse(Glm({{"mlp_layer_types", Mlp("nnyyy")}, {"first_k_dense_replace", 2}}))),
      ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(MoeLayers(Parse(Glm({{"mlp_layer_types", Mlp("nnyny")}, {"moe_layer_freq", 2}}))),
              ElementsAre(2, 4, 5));
  EXPECT_THAT(MoeLayers(Parse(Glm({{"mlp_layer_types", Mlp("nnyny")},
                                   {"first_k_dense_replace", nullptr},
                                   {"moe_layer_freq", 1}}))),
              ElementsAre(2, 4, 5));
}

TEST(LayerKinds, RefuseAListThatContradictsTheNumbers) {
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", Mlp("nyyyy")}, {"first_k_dense_replace", 3}})),
              AllOf(HasSubstr("'mlp_layer_types' says that layer 1 is \"sparse\""),
                    HasSubstr("'first_k_dense_replace' is 3, which says \"dense\"")));
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", Mlp("nnnny")}, {"first_k_dense_replace", 3}})),
              AllOf(HasSubstr("layer 3 is \"dense\""), HasSubstr("which says \"sparse\"")));
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", Mlp("nyyyy")}, {"moe_layer_freq", 2}})),
              AllOf(HasSubstr("layer 1 is \"sparse\""), HasSubstr("'moe_layer_freq' is 2")));
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", Mlp("nyyyy")}, {"n_routed_experts", 0}})),
              AllOf(HasSubstr("layer 1 is \"sparse\""), HasSubstr("'n_routed_experts' is 0")));
}

TEST(LayerKinds, RefuseListsThatAreNotAWordForEachLayer) {
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", Mlp("nyy")}})),
              HasSubstr("'mlp_layer_types' has 3 entries, but num_hidden_layers is 5"));
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", json::array()}})), HasSubstr("has 0 entries"));
  EXPECT_THAT(
      ErrorOf(Glm({{"mlp_layer_types", {"dense", "moe", "sparse", "sparse", "sparse"}}})),
      HasSubstr("'mlp_layer_types' says 'moe' for layer 1, expected \"sparse\" or \"dense\""));
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", "dense"}})),
              HasSubstr("'mlp_layer_types' must be an array with a string for each layer"));
  EXPECT_THAT(ErrorOf(Glm({{"mlp_layer_types", {0, 1, 1, 1, 1}}})), HasSubstr("must be an array"));
  EXPECT_THAT(ErrorOf(Glm({{"indexer_types", Indexers("yyyyyyy")}})),
              HasSubstr("'indexer_types' has 7 entries, but num_hidden_layers is 5 and "
                        "num_nextn_predict_layers 1; a list has 5 entries, or 6 with"));
  EXPECT_THAT(
      ErrorOf(Glm({{"indexer_types", Indexers("yyyyyy")}, {"num_nextn_predict_layers", 0}})),
      HasSubstr("has 6 entries, but num_hidden_layers is 5; the two must agree"));
  EXPECT_THAT(ErrorOf(Glm({{"indexer_types", {"full", "none", "full", "full", "full"}}})),
              HasSubstr("'indexer_types' says 'none' for layer 1"));
  EXPECT_THAT(ErrorOf(Glm({{"index_topk_pattern", "FSXFF"}})),
              HasSubstr("'index_topk_pattern' says 'X' for layer 2, expected \"F\" or \"S\""));
  EXPECT_THAT(ErrorOf(Glm({{"indexer_types", Indexers("nyyyy")}})),
              HasSubstr("'indexer_types' says that layer 0 shares the indexer"));
  const json nested = {{"text_config", Glm({{"indexer_types", Indexers("yy")}})}};
  EXPECT_THAT(ErrorOf(nested), HasSubstr("'text_config.indexer_types' has 2 entries"));
}

TEST(LayerKinds, FollowIndexerTypes) {
  EXPECT_THAT(IndexerLayers(Parse(Glm(json::object()))), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"indexer_types", Indexers("ynnyn")}}))),
              ElementsAre(0, 3, 5))
      << "the MTP layer holds its own";
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"index_topk_pattern", "FFSSF"}}))),
              ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"index_topk_pattern", Indexers("yynny")}}))),
              ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(IndexerLayers(Parse(
                  Glm({{"indexer_types", Indexers("ynnnn")}, {"index_topk_pattern", "FFFFF"}}))),
              ElementsAre(0, 5))
      << "indexer_types goes before the pattern";
}

TEST(LayerKinds, TakeListsWithAnEntryForTheMtpLayer) {
  const ModelConfig without = Parse(Glm({{"mlp_layer_types", Mlp("nnyyy")}}));
  for (const json& changes :
       {json{{"mlp_layer_types", Mlp("nnyyyy")}}, json{{"moe_layer_freq", {0, 0, 1, 1, 1, 1}}}}) {
    EXPECT_EQ(Parse(Glm(changes)).moe_layers, without.moe_layers);
  }
  EXPECT_THAT(MoeLayers(Parse(Glm({{"mlp_layer_types", Mlp("nnyyyn")}}))), ElementsAre(2, 3, 4))
      << "the MTP layer is dense";
  for (const json& changes :
       {json{{"indexer_types", Indexers("ynnyny")}}, json{{"index_topk_pattern", "FSSFSF"}}}) {
    EXPECT_THAT(IndexerLayers(Parse(Glm(changes))), ElementsAre(0, 3, 5));
  }
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"index_topk_pattern", "FSSFSS"}}))), ElementsAre(0, 3))
      << "the MTP layer shares an indexer";
}

TEST(LayerKinds, FollowTheFrequencyOfIndexers) {
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"index_topk_freq", 1}}))), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"index_topk_freq", 2}}))), ElementsAre(0, 1, 3, 5));
  EXPECT_THAT(IndexerLayers(Parse(Glm({{"index_topk_freq", 2}, {"index_skip_topk_offset", 3}}))),
              ElementsAre(0, 1, 2, 4, 5));
  EXPECT_THAT(ErrorOf(Glm({{"index_topk_freq", "four"}})),
              HasSubstr("'index_topk_freq' must be an integer"));
  // GLM-5.2: its first three layers, then every fourth.
  json glm = Glm({{"index_topk_freq", 4}, {"index_skip_topk_offset", 3}});
  glm.update({{"num_hidden_layers", 78}, {"first_k_dense_replace", 3}});
  const std::vector<std::uint64_t> layers = IndexerLayers(Parse(glm));
  ASSERT_EQ(layers.size(), 22U);
  EXPECT_THAT(std::vector(layers.begin(), layers.begin() + 5), ElementsAre(0, 1, 2, 6, 10));
  EXPECT_THAT(std::vector(layers.end() - 2, layers.end()), ElementsAre(74, 78));
}

TEST(LayerKinds, ReadNoIndexersWhereTheArchitectureHasNone) {
  json config = testing::SmallConfig();
  config["indexer_types"] = {"full"};
  EXPECT_FALSE(HasIndexer(Parse(config), 0));
}

TEST(LayerKinds, ReadTheLayerOfAName) {
  EXPECT_EQ(LayerOf("model.layers.12.mlp.gate.weight", ""), 12U);
  EXPECT_EQ(LayerOf("language_model.model.layers.0.x", "language_model."), 0U);
  EXPECT_FALSE(LayerOf("language_model.model.layers.0.x", ""));
  EXPECT_FALSE(LayerOf("model.layers.1x.y", ""));
  EXPECT_FALSE(LayerOf("model.layers.12", ""));
  EXPECT_FALSE(LayerOf("model.norm.weight", ""));
}

}  // namespace
}  // namespace dsv3::convert

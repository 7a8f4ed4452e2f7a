#include "convert/verify/gguf_left_out.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

OpenedModel ModelOf(const std::vector<std::string>& names) {
  std::vector<CatalogTensor> tensors;
  for (const std::string& name : names) {
    tensors.push_back({name, formats::Dtype::kBF16, {1}, {0, 2 * tensors.size(), 2}});
  }
  OpenedModel model;
  SourceFile file;
  file.name = "a";
  model.catalog = Catalog({std::move(file)}, std::move(tensors));
  model.config.known = true;
  model.config.num_hidden_layers = 2;
  model.config.num_nextn_predict_layers = 1;
  return model;
}

std::vector<std::string> LeftOut(const OpenedModel& model, const OpenedModel& gguf) {
  const std::vector<bool> left_out = FindLeftOutOfGguf(model, gguf);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < left_out.size(); ++i) {
    if (left_out[i]) names.push_back(model.catalog.tensors()[i].name);
  }
  return names;
}

using Names = std::vector<std::string>;

TEST(GgufLeftOutTest, LayersBehindTheMainOnesUnlessTheFileHasSome) {
  const OpenedModel model =
      ModelOf({"model.embed_tokens.weight", "model.layers.1.enorm.weight",
               "model.layers.2.enorm.weight", "model.layers.2.eh_proj.weight"});
  const Names mtp = {"model.layers.2.enorm.weight", "model.layers.2.eh_proj.weight"};
  EXPECT_EQ(LeftOut(model, ModelOf({"model.layers.1.enorm.weight"})), mtp);
  EXPECT_EQ(LeftOut(model, ModelOf({"model.layers.2.enorm.weight"})), Names());
  // Which layers these are, only the config says.
  OpenedModel unknown = ModelOf({"model.layers.2.enorm.weight"});
  unknown.config.known = false;
  EXPECT_EQ(LeftOut(unknown, ModelOf({"a"})), Names());
}

TEST(GgufLeftOutTest, WhatIsBesideALanguageModel) {
  const OpenedModel model =
      ModelOf({"language_model.model.embed_tokens.weight",
               "language_model.model.layers.0.enorm.weight", "vision_tower.blocks.0.weight"});
  EXPECT_EQ(LeftOut(model, ModelOf({"a"})), Names({"vision_tower.blocks.0.weight"}));
}

TEST(GgufLeftOutTest, WhatFollowsFromOtherTensorsAndKeys) {
  OpenedModel model = ModelOf({"model.embed_tokens.weight",
                               "model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"});
  const Names table = {"model.layers.0.self_attn.rotary_emb.inv_freq"};
  EXPECT_EQ(LeftOut(model, ModelOf({"a"})), table);
  model.config.tie_word_embeddings = true;
  EXPECT_EQ(LeftOut(model, ModelOf({"a"})), Names({table[0], "lm_head.weight"}));
}

TEST(GgufLeftOutTest, TheBiasOfV4sHashLayers) {
  OpenedModel model = ModelOf({"embed.weight", "layers.0.ffn.gate.bias", "layers.1.ffn.gate.bias",
                               "layers.0.ffn.gate.weight", "mtp.0.enorm.weight"});
  model.config.v4.emplace().num_hash_layers = 1;
  EXPECT_EQ(LeftOut(model, ModelOf({"a"})),
            Names({"layers.0.ffn.gate.bias", "mtp.0.enorm.weight"}));
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/layouts/megatron_names.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/convert/layouts/megatron_model.h"
#include "tests/convert/layouts/stack_model.h"

namespace dsv3::convert {
namespace {

using testing::AddBlock;
using testing::AddEnds;
using testing::AddMtp;
using testing::ExpectReads;
using testing::ExpectRefuses;
using testing::ExpectWrites;
using testing::kExperts;
using testing::Megatron;
using testing::MegatronForm;
using testing::SmallConfig;
using testing::StackModel;

TEST(MegatronNames, AreReadAndWritten) {
  const StackModel model = Megatron();
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model);
}

TEST(MegatronNames, KnowNormsApartFromLinearLayers) {
  MegatronForm form;
  form.local = true;
  const StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"local"});
}

TEST(MegatronNames, KnowATensorForEachExpert) {
  MegatronForm form;
  form.singleton = true;
  const StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"singleton"});
}

TEST(MegatronNames, KnowTheFusedDownProjection) {
  MegatronForm form;
  form.fused_down = true;
  const StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"fused-down"});
}

TEST(MegatronNames, KnowWhatModulesCallTheirTensors) {
  MegatronForm form;
  form.live = true;
  form.mtp_block = "mtp_model_layer";
  StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"live", "live-mtp"});
  for (auto& entry : model.entries) {
    for (const std::string linear : {"linear_fc1", "linear_fc2"}) {
      const std::string from = ".experts." + linear + ".weight";
      const std::size_t at = entry.name.find(from);
      if (at == std::string::npos || entry.name.find("shared") != std::string::npos) continue;
      const std::string expert = entry.name.substr(at + from.size());
      entry.name = fmt::format("{}.experts.local_experts.{}.{}.weight", entry.name.substr(0, at),
                               expert, linear);
    }
  }
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"sequential", "live-mtp"});
}

TEST(MegatronNames, KnowGateAndUpApartByTheExpertsNumber) {
  MegatronForm form;
  form.singleton = true;
  StackModel model = Megatron(form);
  for (auto& entry : model.entries) {
    const std::string from = ".mlp.experts.experts.";
    const std::size_t at = entry.name.find(from);
    if (at == std::string::npos) continue;
    const std::string expert = entry.name.substr(at + from.size(), 1);
    std::string rest = entry.name.substr(at + from.size() + 2);  // "linear_fc1.weight_w"
    rest.insert(std::string("linear_fc1.weight").size(), expert);
    entry.name = entry.name.substr(0, at) + ".mlp.experts." + rest;
  }
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"fsdp"});
}

// With one kind of layer Megatron-Core saves all main layers in one tensor; MTP layers never.
TEST(MegatronNames, KnowStackedLayers) {
  auto json = SmallConfig();
  json["first_k_dense_replace"] = 0;
  StackModel model;
  model.config = ParseModelConfig(json.dump(), "config.json");
  AddMtp(model, {});
  AddEnds(model);
  StackModel layers;
  AddBlock(layers, "decoder.layers.", 0, true, {});
  StackModel second;
  AddBlock(second, "decoder.layers.", 1, true, {});
  for (std::size_t i = 0; i < layers.entries.size(); ++i) {
    auto entry = layers.entries[i];
    if (entry.shape.size() == 1) entry.holds[0].row_end = 1;
    const std::uint64_t rows = entry.holds.back().row_end;
    for (auto held : second.entries[i].holds) {
      if (entry.shape.size() == 1) held.row_end = 1;
      entry.holds.push_back({held.name, rows + held.row_begin, rows + held.row_end});
    }
    entry.shape.insert(entry.shape.begin(), 2);
    model.entries.push_back(entry);
  }
  EXPECT_EQ(model.Find("decoder.layers.mlp.experts.experts.linear_fc1.weight").shape,
            (formats::Shape{2, kExperts, 12, 8}));
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"homogeneous"});

  model.Find("decoder.layers.mlp.router.expert_bias").shape[0] = 3;
  ExpectRefuses(MegatronNames(), model, "decoder.layers.mlp.router.expert_bias",
                {"shape [3, 4]", "predicts [2, 4]"});
}

TEST(MegatronNames, KnowAPlainQueryProjection) {
  auto json = SmallConfig();
  json["q_lora_rank"] = nullptr;
  StackModel model = Megatron();
  model.config = ParseModelConfig(json.dump(), "config.json");
  model.Remove("linear_q_down_proj");
  model.Remove("linear_q_up_proj.layer_norm_weight");
  for (auto& entry : model.entries) {
    const std::size_t at = entry.name.find("linear_q_up_proj");
    if (at == std::string::npos) continue;
    entry.name.replace(at, std::string("linear_q_up_proj").size(), "linear_q_proj");
    entry.shape = {10, 8};
    std::string& name = entry.holds[0].name;
    name.replace(name.find("q_b_proj"), std::string("q_b_proj").size(), "q_proj");
  }
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model);
}

TEST(MegatronNames, SkipWhatIsNotOfTheModel) {
  StackModel model = Megatron();
  for (const char* name :
       {"optimizer.state.exp_avg.decoder.layers.0.mlp.linear_fc2.weight", "rng_state/shard_0_1",
        "decoder.layers.0.self_attention.core_attention._extra_state/shard_0_2",
        "mtp.layers.0.transformer_layer.mlp.linear_fc1._extra_state",
        "chained_0.optimizer.distributed.dp_group_idx_0.gbuf_idx_0", "encoder.layers.0.weight"}) {
    model.entries.push_back({name, {1, 7}, {}});
  }
  ExpectReads(MegatronNames(), model);
  EXPECT_EQ(TotalOf(ReadLayout(MegatronNames(), model.config, model.Tensors()).skipped), 6U);
}

TEST(MegatronNames, LeaveOutPaddingOfTheVocabulary) {
  StackModel model = Megatron();
  model.Find("embedding.word_embeddings.weight").shape[0] = 128;
  model.Find("output_layer.weight").shape[0] = 256;
  ExpectReads(MegatronNames(), model);
  EXPECT_EQ(ReadLayout(MegatronNames(), model.config, model.Tensors()).padding_rows, 224U);
  model.Find("output_layer.weight").shape[0] = 31;
  ExpectRefuses(MegatronNames(), model, "output_layer.weight",
                {"shape [31, 8]", "predicts [32, 8] or more rows for 'lm_head.weight'"});
}

TEST(MegatronNames, TakeTheEmbeddingForTheHeadOnlyWhereTheConfigTiesThem) {
  StackModel model = Megatron();
  model.Remove("output_layer.weight");
  ExpectRefuses(MegatronNames(), model, "lm_head.weight", {"lacks 'output_layer.weight'"});
  auto json = SmallConfig();
  json["tie_word_embeddings"] = true;
  model.config = ParseModelConfig(json.dump(), "config.json");
  model.copies["model.layers.2.shared_head.head.weight"] = "model.embed_tokens.weight";
  ExpectReads(MegatronNames(), model);
  model.Add("output_layer.weight", {32, 8}, "lm_head.weight");
  ExpectRefuses(MegatronNames(), model, "output_layer.weight", {"tied embeddings"});
}

TEST(MegatronNames, TakeAModelWithoutMtpButNotWithAPartOfIt) {
  StackModel model = Megatron();
  model.Remove("mtp.");
  ExpectReads(MegatronNames(), model);
  EXPECT_FALSE(ReadLayout(MegatronNames(), model.config, model.Tensors()).has_mtp);

  model = Megatron();
  EXPECT_TRUE(ReadLayout(MegatronNames(), model.config, model.Tensors()).has_mtp);
  model.Remove("mtp.layers.0.hnorm.weight");
  ExpectRefuses(
      MegatronNames(), model, "model.layers.2.hnorm.weight",
      {"lacks 'mtp.layers.0.hnorm.weight'", "saved in part", "set num_nextn_predict_layers"});

  auto json = SmallConfig();
  json["num_nextn_predict_layers"] = 0;
  model = Megatron();
  model.config = ParseModelConfig(json.dump(), "config.json");
  ExpectRefuses(MegatronNames(), model, "mtp.layers.0.transformer_layer.input_layernorm.weight",
                {"0 MTP layers", "a weight would be lost"});
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/layouts/megatron_names.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/convert/layouts/stack_model.h"

namespace dsv3::convert {
namespace {

using testing::ExpectReads;
using testing::ExpectRefuses;
using testing::ExpectWrites;
using testing::SmallConfig;
using testing::StackModel;

// SmallConfig: hidden 8, dense 12, experts 4 × 6, heads 2 × (3 + 2, 3), q 5, kv 4.
constexpr std::uint64_t kExperts = 4;

struct Form {
  bool local = false;       // norms apart from the linear layers
  bool singleton = false;   // gate and up apart, and each expert
  bool fused_down = false;  // q_a and kv_a in one
  bool live = false;        // experts as modules call them
  std::string mtp_block = "transformer_layer";
};

void AddMlp(StackModel& model, const std::string& to, const std::string& from, std::uint64_t width,
            bool apart) {
  if (apart) {
    model.Add(to + "linear_fc1.weight_w", {width, 8}, from + "gate_proj.weight");
    model.Add(to + "linear_fc1.weight_v", {width, 8}, from + "up_proj.weight");
  } else {
    model.AddRows(to + "linear_fc1.weight", {2 * width, 8},
                  {from + "gate_proj.weight", from + "up_proj.weight"});
  }
  model.Add(to + "linear_fc2.weight", {8, width}, from + "down_proj.weight");
}

void AddAttention(StackModel& model, const std::string& to, const std::string& from,
                  const Form& form) {
  if (form.fused_down) {
    model.Add(to + "linear_qkv_down_proj.layer_norm_weight", {8}, from + "input_layernorm.weight");
    model.AddRows(
        to + "linear_qkv_down_proj.weight", {11, 8},
        {from + "self_attn.q_a_proj.weight", from + "self_attn.kv_a_proj_with_mqa.weight"}, {5, 6});
  } else {
    model.Add(
        to.substr(0, to.size() - std::string("self_attention.").size()) + "input_layernorm.weight",
        {8}, from + "input_layernorm.weight");
    model.Add(to + "linear_q_down_proj.weight", {5, 8}, from + "self_attn.q_a_proj.weight");
    model.Add(to + "linear_kv_down_proj.weight", {6, 8},
              from + "self_attn.kv_a_proj_with_mqa.weight");
  }
  model.Add(to + (form.local ? "q_layernorm.weight" : "linear_q_up_proj.layer_norm_weight"), {5},
            from + "self_attn.q_a_layernorm.weight");
  model.Add(to + (form.local ? "kv_layernorm.weight" : "linear_kv_up_proj.layer_norm_weight"), {4},
            from + "self_attn.kv_a_layernorm.weight");
  model.Add(to + "linear_q_up_proj.weight", {10, 5}, from + "self_attn.q_b_proj.weight");
  model.Add(to + "linear_kv_up_proj.weight", {12, 4}, from + "self_attn.kv_b_proj.weight");
  model.Add(to + "linear_proj.weight", {8, 6}, from + "self_attn.o_proj.weight");
}

void AddExperts(StackModel& model, const std::string& to, const std::string& from,
                const Form& form) {
  std::vector<std::string> fc1;
  std::vector<std::string> fc2;
  for (std::uint64_t e = 0; e < kExperts; ++e) {
    const std::string expert = fmt::format("{}{}.", from, e);
    const std::string gate = expert + "gate_proj.weight";
    const std::string up = expert + "up_proj.weight";
    const std::string down = expert + "down_proj.weight";
    if (form.live) {
      model.AddRows(fmt::format("{}linear_fc1.weight{}", to, e), {12, 8}, {gate, up});
      model.Add(fmt::format("{}linear_fc2.weight{}", to, e), {8, 6}, down);
    } else if (form.singleton) {
      AddMlp(model, fmt::format("{}experts.{}.", to, e), expert, 6, true);
    }
    fc1.insert(fc1.end(), {gate, up});
    fc2.push_back(down);
  }
  if (form.live || form.singleton) return;
  model.AddRows(to + "experts.linear_fc1.weight", {kExperts, 12, 8}, fc1);
  model.AddRows(to + "experts.linear_fc2.weight", {kExperts, 8, 6}, fc2);
}

void AddBlock(StackModel& model, const std::string& to, std::uint64_t layer, bool moe,
              const Form& form) {
  const std::string from = fmt::format("model.layers.{}.", layer);
  AddAttention(model, to + "self_attention.", from, form);
  model.Add(
      to + (moe || form.local ? "pre_mlp_layernorm.weight" : "mlp.linear_fc1.layer_norm_weight"),
      {8}, from + "post_attention_layernorm.weight");
  if (!moe) return AddMlp(model, to + "mlp.", from + "mlp.", 12, form.singleton);
  model.Add(to + "mlp.router.weight", {kExperts, 8}, from + "mlp.gate.weight");
  model.Add(to + "mlp.router.expert_bias", {kExperts}, from + "mlp.gate.e_score_correction_bias");
  AddMlp(model, to + "mlp.shared_experts.", from + "mlp.shared_experts.", 6, form.singleton);
  AddExperts(model, to + "mlp.experts.", from + "mlp.experts.", form);
}

void AddMtp(StackModel& model, const Form& form) {
  AddBlock(model, fmt::format("mtp.layers.0.{}.", form.mtp_block), 2, true, form);
  model.Add("mtp.layers.0.enorm.weight", {8}, "model.layers.2.enorm.weight");
  model.Add("mtp.layers.0.hnorm.weight", {8}, "model.layers.2.hnorm.weight");
  model.Add("mtp.layers.0.eh_proj.weight", {8, 16}, "model.layers.2.eh_proj.weight");
  model.Add("mtp.layers.0.final_layernorm.weight", {8}, "model.layers.2.shared_head.norm.weight");
  model.copies = {{"model.layers.2.embed_tokens.weight", "model.embed_tokens.weight"},
                  {"model.layers.2.shared_head.head.weight", "lm_head.weight"}};
}

void AddEnds(StackModel& model) {
  model.Add("embedding.word_embeddings.weight", {32, 8}, "model.embed_tokens.weight");
  model.Add("output_layer.weight", {32, 8}, "lm_head.weight");
  model.Add("decoder.final_layernorm.weight", {8}, "model.norm.weight");
}

StackModel Megatron(const Form& form = {}) {
  StackModel model;
  AddMtp(model, form);
  AddBlock(model, "decoder.layers.1.", 1, true, form);
  AddBlock(model, "decoder.layers.0.", 0, false, form);
  AddEnds(model);
  return model;
}

TEST(MegatronNames, AreReadAndWritten) {
  const StackModel model = Megatron();
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model);
}

TEST(MegatronNames, KnowNormsApartFromLinearLayers) {
  Form form;
  form.local = true;
  const StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"local"});
}

TEST(MegatronNames, KnowATensorForEachExpert) {
  Form form;
  form.singleton = true;
  const StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"singleton"});
}

TEST(MegatronNames, KnowTheFusedDownProjection) {
  Form form;
  form.fused_down = true;
  const StackModel model = Megatron(form);
  ExpectReads(MegatronNames(), model);
  ExpectWrites(MegatronNames(), model, {"fused-down"});
}

TEST(MegatronNames, KnowWhatModulesCallTheirTensors) {
  Form form;
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
  Form form;
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

// A dense layer has no router, so its rows of a stacked one would be lost.
TEST(MegatronNames, RejectStackedLayersThatTheConfigHasOnlySomeOf) {
  StackModel model = Megatron();
  model.Remove("decoder.layers.1.mlp.router.weight");
  model.Add("decoder.layers.mlp.router.weight", {2, kExperts, 8}, "");
  ExpectRefuses(MegatronNames(), model, "decoder.layers.mlp.router.weight",
                {"holds a layer or an expert that config.json (deepseek_v3, 2 layers, 1 MTP "
                 "layer, 4 experts) does not predict"});
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
  EXPECT_EQ(ReadLayout(MegatronNames(), model.config, model.Tensors()).skipped, 6U);
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

TEST(MegatronNames, NameWhatIsMissingInBothLayouts) {
  StackModel model = Megatron();
  model.Remove("decoder.layers.1.mlp.experts.experts.linear_fc2.weight");
  ExpectRefuses(MegatronNames(), model, "model.layers.1.mlp.experts.0.down_proj.weight",
                {"lacks 'decoder.layers.1.mlp.experts.experts.linear_fc2.weight', which "
                 "Megatron-Core keeps it in (4 tensors are missing in all)",
                 "save it again"});

  Form form;
  form.singleton = true;
  model = Megatron(form);
  model.Remove("decoder.layers.1.mlp.experts.experts.3.linear_fc1.weight_v");
  ExpectRefuses(MegatronNames(), model, "model.layers.1.mlp.experts.3.up_proj.weight",
                {"lacks 'decoder.layers.1.mlp.experts.experts.3.linear_fc1.weight_v'"});

  model = Megatron();
  model.Remove("decoder.layers.0.");
  ExpectRefuses(
      MegatronNames(), model, "model.layers.0.input_layernorm.weight",
      {"lacks 'decoder.layers.0.input_layernorm.weight'", "(12 tensors are missing in all)"});
}

TEST(MegatronNames, RejectTensorsThatTheConfigDoesNotPredict) {
  for (const char* name :
       {"decoder.layers.2.input_layernorm.weight", "decoder.layers.1.mlp.experts.new.weight",
        "embedding.position_embeddings.weight", "mtp.layers.1.enorm.weight",
        "decoder.layers.0.mlp.router.weight",
        "decoder.layers.1.mlp.linear_fc1.layer_norm_weight"}) {
    StackModel model = Megatron();
    model.entries.push_back({name, {8}, {}});
    ExpectRefuses(MegatronNames(), model, name,
                  {"config.json (deepseek_v3, 2 layers, 1 MTP layer, 4 experts) predicts no tensor",
                   "take the config.json that belongs to this checkpoint"});
  }
}

TEST(MegatronNames, RejectShapesOfAnotherModel) {
  const std::pair<const char*, formats::Shape> shapes[] = {
      {"decoder.layers.0.mlp.linear_fc1.weight", {26, 8}},
      {"decoder.layers.0.mlp.linear_fc1.weight", {12, 8}},
      {"decoder.layers.0.mlp.linear_fc1.weight", {24, 9}},
      {"decoder.layers.1.mlp.experts.experts.linear_fc1.weight", {3, 12, 8}},
      {"decoder.layers.1.mlp.experts.experts.linear_fc1.weight", {5, 12, 8}},
      {"decoder.layers.1.mlp.experts.experts.linear_fc2.weight", {4, 48}},
      {"decoder.layers.0.input_layernorm.weight", {7}},
      {"decoder.layers.0.input_layernorm.weight", {}},
      {"decoder.layers.0.self_attention.linear_kv_down_proj.weight", {0, 8}},
      {"mtp.layers.0.eh_proj.weight", {16, 8}},
  };
  for (const auto& [name, shape] : shapes) {
    StackModel model = Megatron();
    model.Find(name).shape = shape;
    ExpectRefuses(MegatronNames(), model, name,
                  {"it has shape " + formats::ShapeToString(shape), "predicts ",
                   "the config is of another model"});
  }
}

TEST(MegatronNames, RejectATensorTwice) {
  StackModel model = Megatron();
  model.entries.push_back(model.Find("decoder.final_layernorm.weight"));
  ExpectRefuses(MegatronNames(), model, "decoder.final_layernorm.weight", {"has it twice"});

  // Under two names.
  model = Megatron();
  model.Add("decoder.layers.0.self_attention.q_layernorm.weight", {5}, "");
  ExpectRefuses(MegatronNames(), model,
                "decoder.layers.0.self_attention.linear_q_up_proj.layer_norm_weight",
                {"predicts no tensor that it could hold"});
}

TEST(MegatronNames, RejectModelsWithoutNames) {
  StackModel model = Megatron();
  model.config = ParseModelConfig(R"({"model_type": "llama"})", "config.json");
  const Error error =
      dsv3::testing::ErrorOf([&] { ReadLayout(MegatronNames(), model.config, model.Tensors()); });
  EXPECT_THAT(error.message(), ::testing::HasSubstr("the model_type 'llama' is not one"));

  auto json = SmallConfig();
  json["attention_bias"] = true;
  model.config = ParseModelConfig(json.dump(), "config.json");
  ExpectRefuses(MegatronNames(), model, "model.layers.0.self_attn.q_a_proj.bias",
                {"no name for it is known in Megatron-Core"});
  EXPECT_EQ(dsv3::testing::ErrorOf(
                [&] { WriteLayout(MegatronNames(), model.config, ModelTensorsOf(model.config)); })
                .place()
                .tensor,
            "model.layers.0.self_attn.q_a_proj.bias");
}

TEST(MegatronNames, AreWrittenOnlyForAWholeModel) {
  const ModelConfig config = ParseModelConfig(SmallConfig().dump(), "config.json");
  for (const char* missing :
       {"model.layers.1.mlp.experts.2.up_proj.weight",
        "model.layers.1.mlp.experts.0.down_proj.weight", "model.layers.0.mlp.gate_proj.weight"}) {
    std::vector<StackTensor> model = ModelTensorsOf(config);
    std::erase_if(model, [&](const StackTensor& tensor) { return tensor.name == missing; });
    const Error error =
        dsv3::testing::ErrorOf([&] { WriteLayout(MegatronNames(), config, model); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << missing;
    EXPECT_THAT(error.message(), ::testing::HasSubstr("the checkpoint is incomplete"));
  }
}

}  // namespace
}  // namespace dsv3::convert

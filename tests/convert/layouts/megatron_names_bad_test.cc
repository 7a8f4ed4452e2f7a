#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/layouts/megatron_names.h"
#include "tests/convert/layouts/megatron_model.h"
#include "tests/convert/layouts/stack_model.h"

namespace dsv3::convert {
namespace {

using testing::ExpectRefuses;
using testing::kExperts;
using testing::Megatron;
using testing::MegatronForm;
using testing::SmallConfig;
using testing::StackModel;

// A dense layer has no router, so its rows of a stacked one would be lost.
TEST(BadMegatronNames, RejectStackedLayersThatTheConfigHasOnlySomeOf) {
  StackModel model = Megatron();
  model.Remove("decoder.layers.1.mlp.router.weight");
  model.Add("decoder.layers.mlp.router.weight", {2, kExperts, 8}, "");
  ExpectRefuses(MegatronNames(), model, "decoder.layers.mlp.router.weight",
                {"holds a layer or an expert that config.json (deepseek_v3, 2 layers, 1 MTP "
                 "layer, 4 experts) does not predict"});
}

TEST(BadMegatronNames, NameWhatIsMissingInBothLayouts) {
  StackModel model = Megatron();
  model.Remove("decoder.layers.1.mlp.experts.experts.linear_fc2.weight");
  ExpectRefuses(MegatronNames(), model, "model.layers.1.mlp.experts.0.down_proj.weight",
                {"lacks 'decoder.layers.1.mlp.experts.experts.linear_fc2.weight', which "
                 "Megatron-Core keeps it in (4 tensors are missing in all)",
                 "save it again"});

  MegatronForm form;
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

TEST(BadMegatronNames, RejectTensorsThatTheConfigDoesNotPredict) {
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

TEST(BadMegatronNames, RejectShapesOfAnotherModel) {
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

TEST(BadMegatronNames, RejectATensorTwice) {
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

TEST(BadMegatronNames, RejectModelsWithoutNames) {
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

TEST(BadMegatronNames, AreWrittenOnlyForAWholeModel) {
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

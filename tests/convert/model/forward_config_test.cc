#include "convert/model/forward_config.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "formats/error.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

ForwardConfig Parse(const json& config) {
  const std::string text = config.dump();
  return ParseForwardConfig(text, ParseModelConfig(text, "config.json"), "config.json");
}

json Yarn() {
  return {{"type", "yarn"},       {"factor", 40},   {"original_max_position_embeddings", 4096},
          {"beta_fast", 32},      {"beta_slow", 1}, {"mscale", 1.0},
          {"mscale_all_dim", 1.0}};
}

json WithYarn(const json& changes = json::object()) {
  json config = testing::V3Config();
  config["rope_scaling"] = Yarn();
  config["rope_scaling"].update(changes);
  return config;
}

TEST(ForwardConfigTest, YarnOfV3) {
  const ForwardConfig config = Parse(WithYarn());
  // From the published code: m = 0.1 ln 40 + 1, and the ramp goes from dimension 10 to 23.
  EXPECT_NEAR(config.softmax_scale, 0.1352338, 1e-7);
  EXPECT_DOUBLE_EQ(config.rotary_factor, 1);
  const std::vector<double> yarn = RotaryFrequencies(config, 64);
  const std::vector<double> plain = RotaryFrequencies(Parse(testing::V3Config()), 64);
  EXPECT_DOUBLE_EQ(plain[0], 1);
  EXPECT_DOUBLE_EQ(yarn[10], plain[10]);
  EXPECT_LT(yarn[11], plain[11]);
  EXPECT_GT(yarn[22], plain[22] / 40);
  EXPECT_DOUBLE_EQ(yarn[23], plain[23] / 40);
}

TEST(ForwardConfigTest, YarnFactorsWithoutMscale) {
  json config = WithYarn();
  config["rope_scaling"].erase("mscale_all_dim");
  EXPECT_NEAR(Parse(config).rotary_factor, 1.3688879, 1e-7);
  EXPECT_DOUBLE_EQ(Parse(config).softmax_scale, Parse(testing::V3Config()).softmax_scale);
  EXPECT_DOUBLE_EQ(Parse(WithYarn({{"attention_factor", 1.5}})).rotary_factor, 1.5);
}

TEST(ForwardConfigTest, ReadsTheParametersOfTransformers5) {
  json config = testing::V3Config();
  config["rope_parameters"] = Yarn();
  config["rope_parameters"]["rope_type"] = "yarn";
  config["rope_parameters"]["rope_theta"] = 50000;
  EXPECT_EQ(Parse(config).rope_theta, 50000);
  EXPECT_TRUE(Parse(config).yarn);
  config["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_FALSE(Parse(config).yarn);
}

TEST(ForwardConfigTest, RefusesByTheFieldsName) {
  const auto expect = [](const json& changes, const std::string& field) {
    json config = testing::V3Config();
    config.update(changes);
    const Error error = dsv3::testing::ErrorOf([&] { Parse(config); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << field;
    EXPECT_THAT(error.message(), HasSubstr(field));
  };
  expect({{"hidden_act", "gelu"}}, "hidden_act \"gelu\"");
  expect({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}, "rope_scaling.type \"linear\"");
  expect({{"rope_scaling", {{"type", "yarn"}, {"factor", "x"}}}}, "rope_scaling.factor");
  expect({{"scoring_func", "softmax"}}, "scoring_func");
  expect({{"topk_method", "greedy"}}, "topk_method");
  expect({{"topk_method", "other"}}, "topk_method \"other\"");
  expect({{"topk_group", 9}}, "topk_group 9");
  expect({{"n_group", 7}}, "n_group 7");
  expect({{"num_experts_per_tok", 129}}, "num_experts_per_tok 129");
  expect({{"model_type", "llama"}}, "model_type");
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

ModelConfig Parse(const json& config) { return ParseModelConfig(config.dump(), "config.json"); }

std::string ErrorOf(const std::string& text) {
  try {
    ParseModelConfig(text, "config.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadInput);
    EXPECT_EQ(e.place().file, "config.json");
    EXPECT_THAT(e.message(), StartsWith("config.json: "));
    return e.message();
  }
  return "no error";
}
std::string ErrorOf(const json& config) { return ErrorOf(config.dump()); }

TEST(ParseModelConfig, ReadsTheFieldsOfV3) {
  const ModelConfig config = Parse(testing::V3Config());
  EXPECT_EQ(config.model_type, "deepseek_v3");
  EXPECT_EQ(config.prefix, "");
  EXPECT_TRUE(config.known);
  EXPECT_EQ(config.vocab_size, 129280U);
  EXPECT_EQ(config.num_hidden_layers, 61U);
  EXPECT_EQ(config.num_nextn_predict_layers, 1U);
  EXPECT_EQ(config.q_lora_rank, 1536U);
  EXPECT_TRUE(config.router_bias);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.index_n_heads, 0U);
  ASSERT_TRUE(config.quantization);
  EXPECT_EQ(config.quantization->quant_method, "fp8");
  EXPECT_EQ(config.quantization->fmt, "e4m3");
  EXPECT_EQ(config.quantization->scale_fmt, "");
  EXPECT_EQ(config.quantization->weight_block_size, (quant::BlockShape{128, 128}));
}

TEST(ParseModelConfig, ReadsScaleFormatBlockAndExcludedModules) {
  json config = testing::V3Config();
  config["quantization_config"]["weight_block_size"] = {32, 64};
  config["quantization_config"]["scale_fmt"] = "ue8m0";
  config["quantization_config"]["modules_to_not_convert"] = {"lm_head", "model.embed_tokens"};
  const auto quantization = Parse(config).quantization;
  EXPECT_EQ(quantization->weight_block_size, (quant::BlockShape{32, 64}));
  EXPECT_EQ(quantization->scale_fmt, "ue8m0");
  EXPECT_THAT(quantization->modules_to_not_convert, ElementsAre("lm_head", "model.embed_tokens"));
}

TEST(ParseModelConfig, ReadsIgnoredLayersAsModulesNotToConvert) {
  const auto parse = [](const json& members) {
    json config = testing::V3Config();
    config["quantization_config"].update(members);
    return *Parse(config).quantization;
  };
  const QuantizationConfig none = parse(json::object());
  EXPECT_THAT(none.modules_to_not_convert, IsEmpty());
  EXPECT_THAT(none.module_lists, ElementsAre("modules_to_not_convert"));
  const QuantizationConfig ignored = parse({{"ignored_layers", {"lm_head", "a.b"}}});
  EXPECT_THAT(ignored.modules_to_not_convert, ElementsAre("lm_head", "a.b"));
  EXPECT_THAT(ignored.module_lists, ElementsAre("ignored_layers"));
  const QuantizationConfig both =
      parse({{"ignored_layers", {"a"}}, {"modules_to_not_convert", {"b", "a"}}});
  EXPECT_THAT(both.modules_to_not_convert, ElementsAre("a", "b"));
  EXPECT_THAT(both.module_lists, ElementsAre("ignored_layers", "modules_to_not_convert"));
  const QuantizationConfig null =
      parse({{"ignored_layers", nullptr}, {"modules_to_not_convert", {"b"}}});
  EXPECT_THAT(null.module_lists, ElementsAre("modules_to_not_convert"));
}

TEST(ParseModelConfig, FillsAbsentFieldsOfV3WithItsDefaults) {
  const ModelConfig config = Parse({{"model_type", "deepseek_v3"}});
  EXPECT_EQ(config.hidden_size, 7168U);
  EXPECT_EQ(config.moe_intermediate_size, 2048U);
  EXPECT_EQ(config.num_hidden_layers, 61U);
  EXPECT_EQ(config.first_k_dense_replace, 3U);
  EXPECT_EQ(config.q_lora_rank, 1536U);
  EXPECT_EQ(config.v_head_dim, 128U);
  EXPECT_EQ(config.moe_layer_freq, 1U);
  EXPECT_TRUE(config.router_bias);
  EXPECT_EQ(config.num_nextn_predict_layers, 0U) << "no class of transformers has this field";
  EXPECT_FALSE(config.quantization);
}

TEST(ParseModelConfig, FillsAbsentFieldsOfGlmWithItsOwnDefaults) {
  const ModelConfig config = Parse({{"model_type", "glm_moe_dsa"}});
  EXPECT_EQ(config.num_hidden_layers, 78U);
  EXPECT_EQ(config.qk_nope_head_dim, 192U);
  EXPECT_EQ(config.index_n_heads, 32U);
  EXPECT_FALSE(config.mtp_embedding_copies);
}

TEST(ParseModelConfig, TakesNullQueryRankAsPlainProjection) {
  json config = testing::V3Config();
  config["q_lora_rank"] = nullptr;
  EXPECT_EQ(Parse(config).q_lora_rank, 0U);
}

TEST(ParseModelConfig, TellsRouterBiasFromTopkMethod) {
  json config = testing::V3Config();
  config["topk_method"] = "greedy";
  EXPECT_FALSE(Parse(config).router_bias);
  config.erase("topk_method");
  EXPECT_TRUE(Parse(config).router_bias);
  config["model_type"] = "deepseek_v2";
  EXPECT_FALSE(Parse(config).router_bias);
}

TEST(ParseModelConfig, ReadsTheGroupsOfTheRouter) {
  const auto groups = [](const json& changes) {
    json config = testing::V3Config();
    config.update(changes);
    return Parse(config).n_group;
  };
  EXPECT_EQ(groups(json::object()), 8U) << "what deepseek_v3 means where it tells none";
  EXPECT_EQ(groups({{"n_group", 4}}), 4U);
  EXPECT_EQ(groups({{"n_group", nullptr}}), 1U);
  EXPECT_EQ(groups({{"n_group", 0}}), 1U);
  EXPECT_EQ(groups({{"model_type", "kimi_k2"}}), 1U);
}

TEST(ParseModelConfig, ReadsNestedTextConfig) {
  json text = testing::V3Config();
  text["model_type"] = "kimi_k2";
  const ModelConfig config = Parse({{"model_type", "kimi_k25"}, {"text_config", text}});
  EXPECT_EQ(config.prefix, "text_config/");
  EXPECT_EQ(config.model_type, "kimi_k2");
  EXPECT_TRUE(config.known);
  EXPECT_TRUE(config.quantization);
}

TEST(ParseModelConfig, FindsQuantizationBesideTextConfig) {
  json text = testing::V3Config();
  const json quantization = text["quantization_config"];
  text.erase("quantization_config");
  const ModelConfig config = Parse({{"text_config", text}, {"quantization_config", quantization}});
  ASSERT_TRUE(config.quantization);
  EXPECT_EQ(config.quantization->quant_method, "fp8");
}

TEST(ParseModelConfig, AcceptsUnknownModelsWithWhateverTheyHold) {
  const ModelConfig config =
      Parse({{"model_type", "deepseek_v41"}, {"hidden_size", "wide"}, {"vocab_size", 5}});
  EXPECT_FALSE(config.known);
  EXPECT_EQ(config.hidden_size, 0U);
  EXPECT_EQ(config.vocab_size, 5U);
  EXPECT_FALSE(Parse(json::object()).known);
}

TEST(ParseModelConfig, ReadsWhatIsV4sOwn) {
  const ModelConfig config = Parse(testing::V4FlashConfig());
  EXPECT_TRUE(config.known);
  ASSERT_TRUE(config.v4);
  EXPECT_EQ(config.v4->head_dim, 512U);
  EXPECT_EQ(config.v4->o_groups, 8U);
  EXPECT_EQ(config.v4->o_lora_rank, 1024U);
  EXPECT_EQ(config.v4->hc_mult, 4U);
  EXPECT_EQ(config.v4->num_hash_layers, 3U);
  EXPECT_FALSE(config.v4->has_draft);
  EXPECT_EQ(config.index_n_heads, 64U);
  EXPECT_TRUE(config.router_bias);
  EXPECT_EQ(config.expert_dtype, "fp4");
  EXPECT_FALSE(Parse(testing::V3Config()).v4);
}

TEST(ParseModelConfig, RejectsV4ConfigsThatContradictThemselves) {
  const auto with = [](const char* field, const json& value) {
    json config = testing::V4FlashConfig();
    config[field] = value;
    return ErrorOf(config);
  };
  json without = testing::V4FlashConfig();
  without.erase("compress_ratios");
  EXPECT_THAT(ErrorOf(without), HasSubstr("lacks the field 'compress_ratios'"));
  EXPECT_THAT(with("compress_ratios", {0, 4}), HasSubstr("has 2 entries"));
  EXPECT_THAT(with("compress_ratios", "none"), HasSubstr("an array with a number"));
  EXPECT_THAT(with("o_groups", 7), HasSubstr("does not divide the 64 heads"));
  EXPECT_THAT(with("hc_mult", 0), HasSubstr("'hc_mult'"));
  EXPECT_THAT(with("n_routed_experts", 0), HasSubstr("'n_routed_experts'"));
}

TEST(ParseModelConfig, RejectsWhatIsNoJsonObject) {
  EXPECT_THAT(ErrorOf(std::string("")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(std::string("<!DOCTYPE html><html>")), HasSubstr("it is an HTML page"));
  EXPECT_THAT(ErrorOf(std::string("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
              HasSubstr("it is a git-lfs pointer"));
  EXPECT_THAT(ErrorOf(std::string("{\"a\": 1")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(std::string("{\"a\": \"\xff\"}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(std::string("[1]")), HasSubstr("must be a JSON object but is [1]"));
}

TEST(ParseModelConfig, ReadsPythonsNumbersWhereNothingDependsOnThem) {
  const auto with = [](const std::string& members) {
    std::string text = testing::V3Config().dump();
    return text.insert(1, members + ",");
  };
  const ModelConfig config = ParseModelConfig(
      with(
          R"("time_step_limit": [0.0, Infinity], "x": {"y": -Infinity}, "initializer_range": NaN)"),
      "config.json");
  EXPECT_TRUE(config.known);
  EXPECT_EQ(config.hidden_size, 7168U);
  EXPECT_EQ(ParseModelConfig("\xEF\xBB\xBF{\"model_type\": \"x\"}", "config.json").model_type, "x");
}

TEST(ParseModelConfig, RefusesNumbersOfItsOwnThatAreNotFinite) {
  for (const std::string number : {"NaN", "Infinity", "-Infinity"}) {
    json config = testing::V3Config();
    config.erase("vocab_size");
    std::string text = config.dump();
    EXPECT_THAT(ErrorOf(text.insert(1, "\"vocab_size\": " + number + ",")),
                HasSubstr("the field 'vocab_size' must be an integer from 0 to 2147483648 but is " +
                          number + ";"));
  }
  EXPECT_THAT(ErrorOf(std::string(R"({"quantization_config": {"weight_block_size": [128, NaN]}})")),
              HasSubstr("'quantization_config.weight_block_size' must be two positive integers, "
                        "such as [128, 128], but is [128,NaN];"));
  EXPECT_THAT(ErrorOf(std::string("[NaN]")), HasSubstr("must be a JSON object but is [NaN]"));
  EXPECT_THAT(ErrorOf(std::string("{\"a\": nan}")), HasSubstr("not valid JSON"));
}

TEST(ParseModelConfig, RejectsDeepNestingWithoutOverflow) {
  EXPECT_THAT(ErrorOf(std::string(1'000'000, '[')), HasSubstr("nests deeper than 127 levels"));
}

TEST(ParseModelConfig, RejectsFieldsThatStandTwice) {
  EXPECT_THAT(ErrorOf(std::string(R"({"model_type": "x", "mod\u0065l_type": "y"})")),
              HasSubstr("'model_type' twice"));
  EXPECT_THAT(ErrorOf(std::string(R"({"a": {"b": 1, "c": {"b": 1}, "b": 2}})")),
              HasSubstr("'b' twice"));
  EXPECT_NO_THROW(ParseModelConfig(R"({"a": {"b": 1}, "b": {"b": 2}})", "config.json"));
}

TEST(ParseModelConfig, RejectsMissingDimensionsWhereNoDefaultIsKnown) {
  json config = testing::V3Config();
  config["model_type"] = "kimi_k2";
  config.erase("kv_lora_rank");
  EXPECT_THAT(ErrorOf(config), HasSubstr("lacks the field 'kv_lora_rank'"));
}

TEST(ParseModelConfig, RejectsDimensionsOfTheWrongKind) {
  for (const json& bad : {json(-1), json(0), json(7168.5), json("7168"), json(nullptr), json(true),
                          json(std::uint64_t{1} << 40)}) {
    json config = testing::V3Config();
    config["hidden_size"] = bad;
    EXPECT_THAT(ErrorOf(config), AllOf(HasSubstr("'hidden_size' must be"), HasSubstr(bad.dump())));
  }
  json config = testing::V3Config();
  config["moe_layer_freq"] = 0;
  EXPECT_THAT(ErrorOf(config), HasSubstr("'moe_layer_freq' must be a positive integer but is 0"));
}

TEST(ParseModelConfig, RejectsModelsTooLargeToBeReal) {
  json config = testing::V3Config();
  config["num_hidden_layers"] = 1'000'000;
  EXPECT_THAT(ErrorOf(config), HasSubstr("more than 262144 tensors"));
}

TEST(ParseModelConfig, RejectsMalformedBlockSizes) {
  for (const json& bad : {json({128}), json({128, 128, 128}), json({0, 128}), json({128, -1}),
                          json({128, 1.5}), json(128), json({"128", "128"})}) {
    json config = testing::V3Config();
    config["quantization_config"]["weight_block_size"] = bad;
    EXPECT_THAT(ErrorOf(config),
                AllOf(HasSubstr("'quantization_config.weight_block_size' must be two positive "
                                "integers, such as [128, 128], but is " +
                                bad.dump())));
  }
  EXPECT_THAT(ErrorOf(json{{"model_type", "unknown"},
                           {"quantization_config", {{"weight_block_size", {1}}}}}),
              HasSubstr("weight_block_size"))
      << "also for unknown models";
}

TEST(ParseModelConfig, RejectsMalformedQuantizationConfigs) {
  EXPECT_THAT(ErrorOf(json{{"quantization_config", "fp8"}}),
              HasSubstr("'quantization_config' must be an object"));
  EXPECT_THAT(ErrorOf(json{{"quantization_config", {{"quant_method", 8}}}}),
              HasSubstr("'quantization_config.quant_method' must be a string"));
  EXPECT_THAT(
      ErrorOf(json{{"quantization_config", {{"modules_to_not_convert", {1}}}}}),
      HasSubstr("'quantization_config.modules_to_not_convert' must be an array of strings"));
  EXPECT_THAT(ErrorOf(json{{"quantization_config", {{"ignored_layers", "lm_head"}}}}),
              HasSubstr("'quantization_config.ignored_layers' must be an array of strings"));
  EXPECT_FALSE(Parse({{"quantization_config", nullptr}}).quantization);
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/model/fitting_fields.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/model/expected_tensors.h"
#include "convert/model/model_check.h"
#include "tests/convert/model/configs.h"

// Which field of config.json a message about tensors names.
namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

ModelConfig Parse(const json& config) { return ParseModelConfig(config.dump(), "config.json"); }

Catalog MakeCatalog(const ModelConfig& config, const std::string& without = "\n") {
  std::vector<CatalogTensor> tensors;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    if (tensor.name.find(without) != std::string::npos) continue;
    tensors.push_back({tensor.name, Dtype::kBF16, tensor.shape, {}});
  }
  SourceFile file;
  file.name = "model.safetensors";
  return Catalog({file}, std::move(tensors));
}

// Without changes: `changes` is null.
json With(json config, const json& changes) {
  if (!changes.is_null()) config.update(changes);
  return config;
}

// The messages about a checkpoint of config `made` beside the config `says`.
std::vector<std::string> Messages(const json& made, const json& says) {
  std::vector<std::string> messages;
  for (const auto& finding : CheckAgainstModel(Parse(says), MakeCatalog(Parse(made)))) {
    messages.push_back(finding.message);
  }
  return messages;
}

std::string WouldFit(const std::string& key, std::uint64_t value, std::uint64_t now) {
  return "; " + key + " " + std::to_string(value) + " would fit this tensor, and counts as " +
         std::to_string(now) + " now: correct config.json";
}

TEST(FittingFields, NamesTheNumberThatIsWrong) {
  json v32 = testing::SmallConfig();
  v32.update({{"model_type", "deepseek_v32"}, {"index_n_heads", 3}, {"index_head_dim", 7}});
  const std::vector<const char*> keys = {
      "vocab_size",       "hidden_size",      "intermediate_size", "moe_intermediate_size",
      "n_shared_experts", "q_lora_rank",      "kv_lora_rank",      "num_attention_heads",
      "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",        "index_n_heads",
      "index_head_dim"};
  for (const char* const key : keys) {
    const auto value = v32.at(key).get<std::uint64_t>();
    for (const std::uint64_t wrong : {value + 1, 3 * value + 2, value > 1 ? value - 1 : 7}) {
      const auto messages = Messages(v32, With(v32, {{key, wrong}}));
      ASSERT_THAT(messages, Not(IsEmpty())) << key;
      EXPECT_THAT(messages, ::testing::Each(HasSubstr(WouldFit(key, value, wrong)))) << key;
    }
  }
}

// moe_intermediate_size is 2048 then.
TEST(FittingFields, NamesTheNumberThatIsLeftOut) {
  json config = testing::SmallConfig();
  config.erase("moe_intermediate_size");
  EXPECT_THAT(Messages(testing::SmallConfig(), config),
              ::testing::Each(HasSubstr(WouldFit("moe_intermediate_size", 6, 2048))));
}

TEST(FittingFields, NamesNumbersOfV4) {
  json v4 = testing::V4FlashConfig();
  v4.update({{"num_hidden_layers", 4}, {"n_routed_experts", 2}, {"num_nextn_predict_layers", 1}});
  v4["compress_ratios"] = {0, 0, 4, 128, 0};
  for (const char* const key :
       {"hidden_size", "moe_intermediate_size", "q_lora_rank", "o_lora_rank"}) {
    const auto value = v4.at(key).get<std::uint64_t>();
    const auto messages = Messages(v4, With(v4, {{key, 2 * value}}));
    ASSERT_THAT(messages, Not(IsEmpty())) << key;
    EXPECT_THAT(messages, ::testing::Each(HasSubstr(WouldFit(key, value, 2 * value)))) << key;
  }
}

TEST(FittingFields, NamesTheFieldThatCallsForOtherTensors) {
  const json config = testing::SmallConfig();
  const auto messages = [&](const json& made, const json& says) {
    return Messages(With(config, made), With(config, says));
  };
  const auto all_say = [](const std::string& text) { return ::testing::Each(HasSubstr(text)); };
  const json none = {{"q_lora_rank", nullptr}};
  EXPECT_THAT(messages({}, none),
              AllOf(Not(IsEmpty()), all_say(", or set q_lora_rank to 5, which fits")));
  EXPECT_THAT(messages(none, {}),
              AllOf(Not(IsEmpty()), all_say(", or set q_lora_rank to null, which fits")));
  EXPECT_THAT(messages({{"n_shared_experts", 0}}, {}),
              AllOf(Not(IsEmpty()), all_say(", or set n_shared_experts to 0, which fits")));
  EXPECT_THAT(messages({}, {{"n_routed_experts", 0}}),
              AllOf(Not(IsEmpty()), all_say(", or set n_routed_experts to 4, which fits")));
  EXPECT_THAT(messages({}, {{"attention_bias", true}}),
              AllOf(Not(IsEmpty()), all_say(", or set attention_bias to false, which fits")));
}

TEST(FittingFields, NamesTheKindsAndNumbersOfLayersOfV4) {
  json v4 = testing::V4FlashConfig();
  v4.update({{"num_hidden_layers", 4}, {"n_routed_experts", 2}, {"num_hash_layers", 3}});
  v4["compress_ratios"] = {0, 0, 4, 128, 0};
  EXPECT_THAT(Messages(v4, With(v4, {{"num_hash_layers", 0}})),
              AllOf(Not(IsEmpty()), ::testing::Each(HasSubstr("set num_hash_layers to 3"))));
  const Catalog catalog = MakeCatalog(Parse(v4));
  const FittingFields fields(Parse(With(v4, {{"num_nextn_predict_layers", 0}})), catalog, "");
  EXPECT_THAT(fields.ForUnexpected(catalog.Find("mtp.0.attn.attn_sink")),
              HasSubstr("set num_nextn_predict_layers to 1"));
}

TEST(FittingFields, SaysWhichFieldWouldPredictATensor) {
  const json config = testing::SmallConfig();
  const auto text = [&](const json& made, const json& says, const char* tensor) {
    const Catalog catalog = MakeCatalog(Parse(With(config, made)));
    const FittingFields fields(Parse(With(config, says)), catalog, "");
    return fields.ForUnexpected(catalog.Find(tensor));
  };
  EXPECT_EQ(text({{"n_shared_experts", 2}}, {{"n_shared_experts", 0}},
                 "model.layers.1.mlp.shared_experts.up_proj.weight"),
            "set n_shared_experts to 2, which fits what is there; it counts as 0 now");
  EXPECT_EQ(text({{"attention_bias", true}}, {}, "model.layers.0.self_attn.o_proj.bias"),
            "set attention_bias to true, which fits what is there; it counts as false now");
  EXPECT_EQ(
      text({}, {{"topk_method", "greedy"}}, "model.layers.1.mlp.gate.e_score_correction_bias"),
      "set topk_method to noaux_tc, which fits what is there; it counts as another method now");
  EXPECT_EQ(text({}, {}, "model.norm.weight"), "");  // it is predicted
}

// The field would lose what is there, or explain one tensor and spoil others.
TEST(FittingFields, NamesNoFieldWhereATensorIsAtFault) {
  const json json_config = testing::SmallConfig();
  const ModelConfig config = Parse(json_config);
  for (const char* const lost : {"model.layers.1.mlp.shared_experts.up_proj.weight",
                                 "model.layers.1.self_attn.q_a_proj.weight"}) {
    const auto findings = CheckAgainstModel(config, MakeCatalog(config, lost));
    ASSERT_EQ(findings.size(), 1U);
    EXPECT_THAT(findings[0].message, AllOf(Not(HasSubstr(", or set")), HasSubstr("download")));
  }
  std::vector<CatalogTensor> tensors = MakeCatalog(config).tensors();
  for (CatalogTensor& tensor : tensors) {
    if (tensor.name == "model.layers.1.self_attn.kv_a_layernorm.weight") ++tensor.shape[0];
  }
  SourceFile file;
  const auto findings = CheckAgainstModel(config, Catalog({file}, tensors));
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_THAT(findings[0].message, Not(HasSubstr("would fit")));
}

// Two numbers are wrong: each is named where it alone makes the shape.
TEST(FittingFields, NamesEachOfTwoNumbersWhereItDecidesAlone) {
  const json config = testing::SmallConfig();
  const json says = With(config, {{"hidden_size", 9}, {"kv_lora_rank", 5}});
  std::size_t named = 0;
  for (const auto& finding : CheckAgainstModel(Parse(says), MakeCatalog(Parse(config)))) {
    if (finding.tensor == "model.norm.weight") {
      EXPECT_THAT(finding.message, HasSubstr(WouldFit("hidden_size", 8, 9)));
      ++named;
    } else if (finding.tensor == "model.layers.0.self_attn.kv_a_layernorm.weight") {
      EXPECT_THAT(finding.message, HasSubstr(WouldFit("kv_lora_rank", 4, 5)));
      ++named;
    } else if (finding.tensor == "model.layers.0.self_attn.kv_a_proj_with_mqa.weight") {
      EXPECT_THAT(finding.message, Not(HasSubstr("would fit")));
      ++named;
    }
  }
  EXPECT_EQ(named, 3U);
}

}  // namespace
}  // namespace dsv3::convert

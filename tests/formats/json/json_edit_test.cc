#include "formats/json/json_edit.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/formats/expect_error.h"

namespace dsv3::formats {
namespace {

using dsv3::testing::ExpectBadInput;

const std::string kFile = "config.json";

constexpr std::string_view kConfig = R"({
  "architectures": [
    "DeepseekV3ForCausalLM"
  ],
  "quantization_config": {
    "fmt": "e4m3",
    "weight_block_size": [128, 128]
  },
  "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16"
}
)";

TEST(JsonEditTest, ReadsAMemberAsItStands) {
  EXPECT_EQ(JsonMember(kConfig, "rms_norm_eps", kFile), "1e-06");
  EXPECT_EQ(JsonMember(kConfig, "torch_dtype", kFile), "\"bfloat16\"");
  EXPECT_EQ(JsonMember(kConfig, "quantization_config/weight_block_size", kFile), "[128, 128]");
  EXPECT_EQ(JsonMember(kConfig, "dtype", kFile), std::nullopt);
  EXPECT_EQ(JsonMember(kConfig, "fmt", kFile), std::nullopt);
  EXPECT_EQ(JsonMember(kConfig, "torch_dtype/fmt", kFile), std::nullopt);
  EXPECT_EQ(JsonMember("[1]", "a", kFile), std::nullopt);
  EXPECT_EQ(JsonMember(R"({"a\u0062":1})", "ab", kFile), "1");
}

TEST(JsonEditTest, KeepsPythonsNumbersAsTheyAre) {
  const std::string_view text = R"({"a": NaN, "b": {"limit": -Infinity}, "c": Infinity})";
  EXPECT_EQ(JsonMember(text, "a", kFile), "NaN");
  EXPECT_EQ(JsonMember(text, "b/limit", kFile), "-Infinity");
  EXPECT_EQ(RemoveJsonMember(text, "b", kFile), R"({"a": NaN, "c": Infinity})");
  EXPECT_EQ(ReplaceJsonMember(text, "a", "{\"x\": NaN}", kFile),
            R"({"a": {"x": NaN}, "b": {"limit": -Infinity}, "c": Infinity})");
  EXPECT_EQ(AppendJsonMember("{\"a\": NaN}", "b", "-Infinity", kFile),
            R"({"a": NaN,"b": -Infinity})");
}

TEST(JsonEditTest, RemovesAMemberAndNothingElse) {
  EXPECT_EQ(RemoveJsonMember(kConfig, "quantization_config", kFile), R"({
  "architectures": [
    "DeepseekV3ForCausalLM"
  ],
  "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16"
}
)");
  EXPECT_EQ(RemoveJsonMember(kConfig, "quantization_config/weight_block_size", kFile), R"({
  "architectures": [
    "DeepseekV3ForCausalLM"
  ],
  "quantization_config": {
    "fmt": "e4m3"
  },
  "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16"
}
)");
  EXPECT_EQ(RemoveJsonMember(kConfig, "absent", kFile), kConfig);
}

TEST(JsonEditTest, RemovesFirstMiddleLastAndOnlyMembers) {
  const std::string_view text = "{ \"a\" : 1 , \"b\":2,\n\t\"c\":3 }";
  EXPECT_EQ(RemoveJsonMember(text, "a", kFile), "{ \"b\":2,\n\t\"c\":3 }");
  EXPECT_EQ(RemoveJsonMember(text, "b", kFile), "{ \"a\" : 1 , \"c\":3 }");
  EXPECT_EQ(RemoveJsonMember(text, "c", kFile), "{ \"a\" : 1 , \"b\":2 }");
  EXPECT_EQ(RemoveJsonMember("{\n  \"a\": 1\n}\n", "a", kFile), "{}\n");
}

TEST(JsonEditTest, ReplacesAValueAndNothingElse) {
  std::string expected(kConfig);
  expected.replace(expected.find("1e-06"), 5, "0.5");
  EXPECT_EQ(ReplaceJsonMember(kConfig, "rms_norm_eps", "0.5", kFile), expected);
  EXPECT_EQ(ReplaceJsonMember(kConfig, "absent", "0.5", kFile), kConfig);
  ExpectBadInput([] { ReplaceJsonMember(kConfig, "rms_norm_eps", "0.5,", kFile); },
                 "config.json: ", "the new value");
}

TEST(JsonEditTest, AppendsInTheStyleOfTheText) {
  EXPECT_EQ(AppendJsonMember("{\n  \"a\": 1\n}\n", "b", "2", kFile),
            "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
  EXPECT_EQ(AppendJsonMember(R"({"a": 1, "c": {}})", "b", "2", kFile),
            R"({"a": 1, "c": {}, "b": 2})");
  EXPECT_EQ(AppendJsonMember(R"({"a":1,"c":":"})", "b", "2", kFile), R"({"a":1,"c":":","b":2})");
  EXPECT_EQ(AppendJsonMember("{}", "b", "2", kFile), R"({"b": 2})");
  ExpectBadInput([] { AppendJsonMember(R"({"a":1})", "a", "2", kFile); }, "'a' is there already");
  ExpectBadInput([] { AppendJsonMember("[]", "a", "2", kFile); }, "an object is expected");
}

TEST(JsonEditTest, AMemberThatStandsTwiceIsAnError) {
  const std::string_view text = R"({"a":1,"b":{"c":1,"c":2},"\u0061":3})";
  const auto words = "config.json: the member 'a' appears twice";
  ExpectBadInput([&] { JsonMember(text, "a", kFile); }, words, "at byte 25");
  ExpectBadInput([&] { RemoveJsonMember(text, "a", kFile); }, words);
  ExpectBadInput([&] { ReplaceJsonMember(text, "a", "1", kFile); }, words);
  ExpectBadInput([&] { JsonMember(text, "b/c", kFile); }, "the member 'c' appears twice");
  EXPECT_EQ(JsonMember(text, "b", kFile), R"({"c":1,"c":2})");
}

TEST(JsonEditTest, TheWholeTextMustBeJson) {
  ExpectBadInput([] { JsonMember(R"({"a":1,})", "a", kFile); },
                 "config.json: the file is not valid", "at byte 7");
  ExpectBadInput([] { RemoveJsonMember(R"({"a":1} x)", "a", kFile); }, "nothing may follow");
  ExpectBadInput([] { JsonMember("", "a", kFile); }, "a value is expected at byte 0");
}

}  // namespace
}  // namespace dsv3::formats

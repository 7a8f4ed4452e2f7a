#include "convert/layouts/keys_file.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using dsv3::testing::ErrorOf;
using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(KeysFile, GivesKeysInTheOrderOfTheFile) {
  const std::vector<EngineKey> keys = ParseKeysFile(
      R"({"b.w13": {"dtype": "F8_E4M3", "shape": [2, 4, 8], "sources": ["x", "y"], "stride": [1]},
          "a": {"shape": [], "dtype": "torch.bfloat16"}})",
      "keys.json");
  ASSERT_THAT(keys, SizeIs(2));
  EXPECT_EQ(keys[0].key, "b.w13");
  EXPECT_EQ(keys[0].dtype, Dtype::kF8E4M3);
  EXPECT_THAT(keys[0].shape, ElementsAre(2, 4, 8));
  EXPECT_THAT(keys[0].sources, ElementsAre("x", "y"));
  EXPECT_EQ(keys[1].dtype, Dtype::kBF16);
  EXPECT_THAT(keys[1].sources, ElementsAre("a"));
}

TEST(KeysFile, KnowsTheDtypesOfTorch) {
  const std::pair<const char*, Dtype> dtypes[] = {{"torch.float8_e4m3fn", Dtype::kF8E4M3},
                                                  {"float8_e5m2", Dtype::kF8E5M2},
                                                  {"torch.float8_e8m0fnu", Dtype::kF8E8M0},
                                                  {"torch.float32", Dtype::kF32},
                                                  {"float16", Dtype::kF16},
                                                  {"torch.int64", Dtype::kI64},
                                                  {"torch.uint8", Dtype::kU8},
                                                  {"torch.bool", Dtype::kBool},
                                                  {"F8_E8M0", Dtype::kF8E8M0},
                                                  {"BF16", Dtype::kBF16}};
  for (const auto& [name, dtype] : dtypes) {
    const std::string text = std::string(R"({"k": {"dtype": ")") + name + R"(", "shape": [1]}})";
    EXPECT_EQ(ParseKeysFile(text, "keys.json").at(0).dtype, dtype) << name;
  }
}

TEST(KeysFile, RejectsWhatIsNoListOfKeys) {
  const std::pair<const char*, const char*> texts[] = {
      {"{}", "holds no keys"},
      {"[]", "expected"},
      {R"({"k": 1})", "expected"},
      {R"({"k": {"shape": [1]}})", "it has no dtype"},
      {R"({"k": {"dtype": "BF16"}})", "it has no shape"},
      {R"({"k": {"dtype": "bf16", "shape": [1]}})", "dtype 'bf16' is none"},
      {R"({"k": {"dtype": "BF16", "shape": [-1]}})", "expected"},
      {R"({"k": {"dtype": "BF16", "shape": [4294967296, 4294967296]}})", "cannot be counted"},
      {R"({"k": {"dtype": "BF16", "shape": [1], "sources": []}})", "sources is empty"},
      {R"({"k": {"dtype": "BF16", "shape": [1], "sources": ["a", "a"]}})", "'a' appears twice"},
      {R"({"k": {"dtype": "BF16", "dtype": "BF16", "shape": [1]}})", "dtype appears twice"},
      {R"({"k": {"dtype": "BF16", "shape": [1]}, "k": {"dtype": "BF16", "shape": [1]}})",
       "appears twice"},
      {R"({"k": {"dtype": "BF16", "shape": [1]}} x)", "nothing may follow"},
  };
  for (const auto& [text, message] : texts) {
    const Error error = ErrorOf([&, text = text] { ParseKeysFile(text, "keys.json"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << text;
    EXPECT_THAT(error.message(), HasSubstr("keys.json"));
    EXPECT_THAT(error.message(), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace dsv3::convert

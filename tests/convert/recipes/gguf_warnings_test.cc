#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/job/conversion_report.h"
#include "convert/recipes/to_gguf.h"
#include "formats/finding.h"
#include "formats/gguf_type.h"
#include "tests/convert/recipes/to_gguf_test.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::GgufType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Files of one model with another config.json each.
class GgufWarningsTest : public ToGgufTest {
 protected:
  void SetUp() override {
    ToGgufTest::SetUp();
    in_ = Bf16Sample();
  }

  // The messages that a run says of what llama.cpp computes otherwise.
  std::vector<std::string> Messages(const nlohmann::json& rope_scaling) {
    SetConfig(in_, "rope_scaling", rope_scaling);
    convert::ToGgufOptions options;
    options.no_tokenizer = true;
    Conversion command = Command(in_, dir_ / "m.gguf", GgufType::kBF16, options);
    command.request.run.dry_run = true;
    std::vector<std::string> messages;
    for (const formats::Finding& warning : command.Run().warnings) {
      EXPECT_EQ(warning.kind, "llama-cpp-differs");
      EXPECT_EQ(warning.file, "config.json");
      messages.push_back(warning.message);
    }
    return messages;
  }

  static nlohmann::json Yarn(const nlohmann::json& more) {
    nlohmann::json yarn = {
        {"type", "yarn"}, {"factor", 40.0}, {"original_max_position_embeddings", 4096}};
    yarn.update(more);
    return yarn;
  }

  fs::path in_;
};

TEST_F(GgufWarningsTest, YarnAsTheFamilyHasItIsThatOfLlamaCpp) {
  EXPECT_THAT(Messages(nullptr), IsEmpty());
  for (const double mscale : {1.0, 0.707}) {  // V3, V2
    EXPECT_THAT(Messages(Yarn({{"mscale", mscale}, {"mscale_all_dim", mscale}})), IsEmpty());
  }
}

TEST_F(GgufWarningsTest, BetasThatItsLoaderDoesNotReadAreNamedWithTheOptions) {
  const nlohmann::json betas = {
      {"mscale", 1.0}, {"mscale_all_dim", 1.0}, {"beta_fast", 1.0}, {"beta_slow", 0.5}};
  EXPECT_THAT(Messages(Yarn(betas)),
              ElementsAre(HasSubstr("run it with --yarn-beta-fast 1 --yarn-beta-slow 0.5")));
}

TEST_F(GgufWarningsTest, MagnitudesThatItDerivesOtherwiseAreNamed) {
  const std::vector<nlohmann::json> others = {
      nlohmann::json::object(),                    // cos, sin and scores
      {{"mscale", 0.7}, {"mscale_all_dim", 1.2}},  // it takes 1.2 for both
      {{"mscale", 2.0}, {"mscale_all_dim", 1.0}},  // it takes 1
      {{"mscale", 1.0}},                           // without mscale_all_dim
      {{"mscale_all_dim", 1.0}},                   // cos and sin by the factor
      {{"mscale", 1}, {"mscale_all_dim", 1}, {"attention_factor", 2}}};
  for (const nlohmann::json& other : others) {
    EXPECT_THAT(Messages(Yarn(other)), ElementsAre(HasSubstr("by mscale_all_dim (rope_scaling)")))
        << other;
  }
  // A factor of 1 gives 1 for each.
  nlohmann::json one = Yarn(nlohmann::json::object());
  one["factor"] = 1.0;
  EXPECT_THAT(Messages(one), IsEmpty());
}

TEST_F(GgufWarningsTest, AnUntruncatedRangeIsNamed) {
  EXPECT_THAT(Messages(Yarn({{"mscale", 1.0}, {"mscale_all_dim", 1.0}, {"truncate", false}})),
              ElementsAre(HasSubstr("'truncate' (rope_scaling) is false")));
}

TEST_F(GgufWarningsTest, GroupsThatV2ChoosesOtherwiseAreNamed) {
  auto tensors = ReadCheckpoint(in_);
  std::erase_if(tensors, [](const auto& tensor) {
    return tensor.first.ends_with("e_score_correction_bias") ||
           tensor.first.starts_with("model.layers.4.");
  });
  WriteTensors(tensors, in_, dir_ / "v2");
  in_ = dir_ / "v2";
  SetConfig(in_, "num_nextn_predict_layers", 0);
  SetConfig(in_, "model_type", "deepseek_v2");
  SetConfig(in_, "architectures", {"DeepseekV2ForCausalLM"});
  SetConfig(in_, "scoring_func", "softmax");
  SetConfig(in_, "norm_topk_prob", false);
  SetConfig(in_, "topk_method", "group_limited_greedy");
  EXPECT_THAT(Messages(nullptr), ElementsAre(HasSubstr("(n_group 4) by the sum of their two "
                                                       "largest scores, and this model "
                                                       "(topk_method) by the largest")));
  SetConfig(in_, "topk_method", "greedy");
  EXPECT_THAT(Messages(nullptr), ElementsAre(HasSubstr("does not choose by groups")));
  SetConfig(in_, "n_group", 1);
  SetConfig(in_, "topk_group", 1);
  EXPECT_THAT(Messages(nullptr), IsEmpty());
}

}  // namespace
}  // namespace dsv3::testing

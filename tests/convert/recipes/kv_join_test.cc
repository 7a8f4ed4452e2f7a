#include "convert/recipes/kv_join.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/train_to_infer.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/reshard.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Tensors = std::map<std::string, HeldTensor>;

const std::string kKeys = "model.layers.1.self_attn.k_b_proj.weight";
const std::string kValues = "model.layers.1.self_attn.v_b_proj.weight";

// What `layout --to` makes of the halves that --mla split wrote.
class KvJoinTest : public TrainToInferTest {
 protected:
  static convert::ConversionReport Write(const fs::path& input, const fs::path& output,
                                         const std::string& to) {
    return Conversion(input, output, convert::LayoutConversion({.to = to})).Run();
  }
  fs::path Quantised(const convert::QuantizeBlock& block) {
    Conversion(Bf16Sample(), dir_ / "quantised", convert::Bf16ToFp8Conversion({.block = block}))
        .Run();
    return dir_ / "quantised";
  }
  void Split(const fs::path& in, const fs::path& out) {
    Convert(in, out, {.mla = convert::MlaForm::kSplit});
  }
  // That the model is the same after it was split and put together.
  void ExpectComesBack(const fs::path& in) {
    Split(in, dir_ / "split");
    const convert::ConversionReport report = Write(dir_ / "split", dir_ / "back", "hf");
    EXPECT_TRUE(ReadCheckpoint(dir_ / "back") == ReadCheckpoint(in));
    EXPECT_EQ(Json(dir_ / "back" / "config.json"), Json(in / "config.json"));
    for (const convert::ReportFact& fact : report.facts) {
      if (fact.member == "joined") {
        EXPECT_EQ(fact.names.size(), kMainLayers + 1U);
      }
    }
  }
  // What the layout of the split model with these tensors is refused with.
  Error Refusal(const Tensors& tensors) {
    fs::remove_all(dir_ / "edited");
    WriteTensors(tensors, dir_ / "split", dir_ / "edited");
    Error error = ErrorOf([&] { Write(dir_ / "edited", dir_ / "out", "hf"); });
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    return error;
  }
};

TEST_F(KvJoinTest, BringsKvBProjBackToTheByte) { ExpectComesBack(Bf16Sample()); }

TEST_F(KvJoinTest, BringsFp8BackWithItsScales) {
  const fs::path in = Quantised({quant::BlockForm::kBlock, {32, 32}});
  nlohmann::json config = Json(in / "config.json");
  config["quantization_config"]["modules_to_not_convert"] = {"lm_head", "self_attn.kv_b_proj"};
  WriteFile(in / "config.json", config.dump(2));
  ExpectComesBack(in);
}

TEST_F(KvJoinTest, TakesOneOfEqualScalesOfWholeWeights) {
  ExpectComesBack(Quantised({quant::BlockForm::kTensor, {}}));
  Tensors tensors = ReadCheckpoint(dir_ / "split");
  tensors.at(kValues + "_scale").bytes[1] ^= 1;
  const Error error = Refusal(tensors);
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr(kValues + "_scale"), Not(HasSubstr("MTP"))));
}

TEST_F(KvJoinTest, EveryLayoutTakesTheHalves) {
  const fs::path in = Bf16Sample();
  Split(in, dir_ / "split");
  for (const char* const to : {"mindformers-train", "deepseek"}) {
    Write(in, dir_ / (std::string("whole-") + to), to);
    Write(dir_ / "split", dir_ / (std::string("halves-") + to), to);
    EXPECT_TRUE(ReadCheckpoint(dir_ / (std::string("whole-") + to)) ==
                ReadCheckpoint(dir_ / (std::string("halves-") + to)))
        << to;
  }
}

TEST_F(KvJoinTest, TakesTheHalvesOfRankShards) {
  const fs::path in = Bf16Sample();
  Split(in, dir_ / "split");
  convert::ReshardOptions options;
  options.parallel.ep = 2;
  RunReshard(dir_ / "split", dir_ / "ranks", options);
  Write(dir_ / "ranks", dir_ / "back", "hf");
  EXPECT_TRUE(ReadCheckpoint(dir_ / "back") == ReadCheckpoint(in));
}

TEST_F(KvJoinTest, RefusesHalvesThatAreNotOfOneWeight) {
  const fs::path in = Bf16Sample();
  Split(in, dir_ / "split");
  const Tensors split = ReadCheckpoint(dir_ / "split");

  Tensors tensors = split;
  const std::string whole = "model.layers.1.self_attn.kv_b_proj.weight";
  tensors[whole] = ReadCheckpoint(in).at(whole);
  EXPECT_THAT(Refusal(tensors).message(), AllOf(HasSubstr(kKeys), HasSubstr("is there, too")));

  tensors = split;
  tensors["model.layers.1.self_attn.v_b_proj.extra"] = tensors.at(kValues);
  EXPECT_THAT(Refusal(tensors).message(), HasSubstr("the other half"));

  // Scales of blocks that heads share.
  tensors = split;
  const HeldTensor scale{formats::Dtype::kF32, {3, 1}, std::string(12, '\1')};
  tensors["model.layers.1.self_attn.k_b_proj.extra"] = scale;
  tensors["model.layers.1.self_attn.v_b_proj.extra"] = scale;
  EXPECT_THAT(Refusal(tensors).message(),
              AllOf(HasSubstr("k_b_proj.extra"), HasSubstr("cannot be put together")));
}

}  // namespace
}  // namespace dsv3::testing

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/conversion.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TrainToInferTest : public ::testing::Test {
 protected:
  convert::ConversionReport Drop(const fs::path& input, const fs::path& output,
                                 bool mtp_drop = true) {
    Conversion conversion(input, output);
    conversion.convert = convert::ConvertTrainToInfer;
    conversion.request.train_to_infer.drop_mtp = mtp_drop;
    return conversion.Run();
  }

  static nlohmann::json Json(const fs::path& file) { return nlohmann::json::parse(ReadFile(file)); }

  TempDir dir_;
};

// The layers of the `tiny` sample; its MTP layer comes behind them.
constexpr int kMainLayers = 4;

TEST_F(TrainToInferTest, DropsTheTensorsOfMtpLayersAloneFromShardsIndexAndConfig) {
  const fs::path in = dir_ / "in";
  const fs::path out = dir_ / "out";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  ASSERT_EQ(Json(in / "config.json")["num_hidden_layers"], kMainLayers);
  ASSERT_EQ(Json(in / "config.json")["num_nextn_predict_layers"], 1);
  const std::string mtp_layer = "model.layers." + std::to_string(kMainLayers) + ".";

  const convert::ConversionReport report = Drop(in, out);

  std::map<std::string, HeldTensor> expected = ReadCheckpoint(in);
  const std::size_t dropped = std::erase_if(
      expected, [&](const auto& tensor) { return tensor.first.starts_with(mtp_layer); });
  ASSERT_GT(dropped, 0U);
  EXPECT_TRUE(ReadCheckpoint(out) == expected);
  ASSERT_EQ(report.facts.size(), 1U);
  EXPECT_EQ(report.facts[0].member, "dropped");
  EXPECT_EQ(report.facts[0].names.size(), dropped);
  EXPECT_EQ(report.copied_tensors, expected.size());

  const nlohmann::json index = Json(out / "model.safetensors.index.json");
  EXPECT_EQ(index["weight_map"].size(), expected.size());
  for (const auto& [name, shard] : index["weight_map"].items()) {
    EXPECT_TRUE(expected.contains(name)) << name;
    EXPECT_TRUE(fs::exists(out / shard.get<std::string>())) << shard;
  }
  std::string config = ReadFile(in / "config.json");
  const std::string member = "\"num_nextn_predict_layers\": ";
  config.replace(config.find(member), member.size() + 1, member + "0");
  EXPECT_EQ(ReadFile(out / "config.json"), config);
}

TEST_F(TrainToInferTest, KeepsEveryByteOfShardsThatLoseNothing) {
  const fs::path in = dir_ / "in";
  const fs::path out = dir_ / "out";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  Drop(in, out);
  std::size_t shards = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++shards;
    EXPECT_TRUE(ReadFile(entry.path()) == ReadFile(in / entry.path().filename()));
  }
  EXPECT_GT(shards, 0U);
}

TEST_F(TrainToInferTest, TakesRankShardsForTheirModel) {
  MakeSample(convert::SamplePreset::kTinyTp, 1, dir_ / "in");
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  RunReshard(dir_ / "in", dir_ / "ranks", options);
  Drop(dir_ / "in", dir_ / "out");
  Drop(dir_ / "ranks", dir_ / "out-of-ranks");
  EXPECT_TRUE(ReadTree(dir_ / "out") == ReadTree(dir_ / "out-of-ranks"));
}

TEST_F(TrainToInferTest, RefusesAModelWithoutMtpLayers) {
  MakeSample(convert::SamplePreset::kTinyKimi, 1, dir_ / "in");
  const Error error = ErrorOf([&] { Drop(dir_ / "in", dir_ / "out"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("no MTP layer"));
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

TEST_F(TrainToInferTest, WantsToKnowWhatIsToBeDone) {
  MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "in");
  const Error error = ErrorOf([&] { Drop(dir_ / "in", dir_ / "out", false); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--mtp drop"));
}

}  // namespace
}  // namespace dsv3::testing

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/reshard_job.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/rank_forward.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// What the ranks make together must be what the whole model makes.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ModelConfig;
using convert::OnMisaligned;
using convert::ReshardOptions;

ModelConfig ReadConfig(const fs::path& directory) {
  return convert::ParseModelConfig(ReadFile(directory / "config.json"), "config.json");
}

// The tiny-tp sample: 16 heads, 32 experts, 1000 words.
class ReshardForwardTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir(MemoryDirectory());
    MakeSample(convert::SamplePreset::kTinyTp, 5, *dir_ / "fp8");
    Conversion(*dir_ / "fp8", *dir_ / "bf16").Run();
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }

  void SetUp() override {
    options_.parallel.tp = 8;
    options_.parallel.ep = 4;  // two ranks an expert
    options_.parallel.shared_expert_tp = 4;
  }
  void TearDown() override { fs::remove_all(*dir_ / "ranks"); }

  // Makes the ranks and compares their logits with the whole model's.
  void Check(const char* model) {
    const fs::path ranks = *dir_ / "ranks";
    report_ = RunReshard(*dir_ / model, ranks, options_);
    const ModelConfig config = ReadConfig(*dir_ / model);
    const ModelConfig rank_config = ReadConfig(ranks);
    const convert::ModuleList rounded(report_.bf16_modules);
    const Weights whole(ReadCheckpoint(*dir_ / model), config, rounded);
    std::vector<std::unique_ptr<Weights>> weights;
    for (const convert::RankReport& rank : report_.ranks) {
      weights.push_back(
          std::make_unique<Weights>(ReadTensors(ranks, rank.files), rank_config, rounded));
    }
    ASSERT_EQ(weights.size(), report_.topology.world_size());

    constexpr std::uint64_t kToken = 777;
    const auto expected = RunForward(WholeDeployment(whole), config, kToken);
    const auto found = RunForward(RankDeployment(weights, report_), config, kToken);
    ASSERT_EQ(expected.size(), 1 + config.num_nextn_predict_layers);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      double largest = 0;
      for (const double logit : expected[i]) largest = std::max(largest, std::abs(logit));
      ASSERT_GT(largest, 1e-3);
      ASSERT_TRUE(std::isfinite(largest));
      ASSERT_EQ(found[i].size(), expected[i].size());
      for (std::size_t word = 0; word < found[i].size(); ++word) {
        // Sums in another order differ by some roundings of double.
        ASSERT_NEAR(found[i][word], expected[i][word], 1e-10 * largest) << word;
      }
    }
  }

  static TempDir* dir_;
  ReshardOptions options_;
  convert::ReshardReport report_;
};

TempDir* ReshardForwardTest::dir_ = nullptr;

TEST_F(ReshardForwardTest, SumsToTheWholeInBf16) { Check("bf16"); }

TEST_F(ReshardForwardTest, SumsToTheWholeInFp8) { Check("fp8"); }

TEST_F(ReshardForwardTest, SumsToTheWholeOverStagesAndReplicas) {
  options_.parallel.tp = 2;
  options_.parallel.ep = 8;
  options_.parallel.pp = 2;
  options_.parallel.embed_tp = 8;
  options_.parallel.shared_expert_tp = 1;
  options_.parallel.redundant_experts = 16;
  options_.placement.kind = convert::PlacementKind::kRoundRobin;
  options_.grouping = convert::RankGrouping::kComponent;
  Check("fp8");
}

// 16 ranks divide blocks of the dense MLP and of the shared experts.
TEST_F(ReshardForwardTest, SumsToTheWholeWithMisalignedModulesWhole) {
  options_.parallel = {.tp = 16, .ep = 8};
  options_.on_misaligned = OnMisaligned::kReplicateModule;
  Check("fp8");
  EXPECT_THAT(report_.replicated_modules, ::testing::Contains("model.layers.0.mlp"));
}

TEST_F(ReshardForwardTest, SumsToTheWholeWithMisalignedModulesInBf16) {
  options_.parallel = {.tp = 16, .ep = 8};
  options_.on_misaligned = OnMisaligned::kBF16;
  Check("fp8");
  EXPECT_THAT(report_.bf16_modules, ::testing::Contains("model.layers.0.mlp.gate_proj"));
}

TEST_F(ReshardForwardTest, SumsToTheWholeWithSubblocks) {
  options_.parallel = {.tp = 16, .ep = 8};
  options_.on_misaligned = OnMisaligned::kSubblock;
  Check("fp8");
  EXPECT_EQ(report_.recut_block, (quant::BlockShape{64, 64}));
}

}  // namespace
}  // namespace dsv3::testing

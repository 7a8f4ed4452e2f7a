#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/reshard_job.h"
#include "convert/recipes/reshard_names.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

// From a checkpoint to rank shards of every kind, and back.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::OnMisaligned;
using convert::PlacementKind;
using convert::RankFormat;
using convert::RankGrouping;
using convert::ReshardOptions;
using convert::SamplePreset;

// What a directory of ranks holds, whatever it was made from.
std::map<std::string, std::string> RankTree(const fs::path& directory) {
  std::map<std::string, std::string> tree = ReadTree(directory);
  tree.erase("checkpoint.manifest.json");
  nlohmann::ordered_json layout = nlohmann::ordered_json::parse(tree.at("layout.json"));
  layout.erase("job");
  tree["layout.json"] = layout.dump();
  return tree;
}

void ExpectSameRanks(const fs::path& a, const fs::path& b) {
  const std::map<std::string, std::string> tree_a = RankTree(a);
  const std::map<std::string, std::string> tree_b = RankTree(b);
  EXPECT_EQ(tree_a.size(), tree_b.size());
  for (const auto& [name, content] : tree_a) {
    const auto found = tree_b.find(name);
    if (found == tree_b.end()) {
      ADD_FAILURE() << name << " is in one alone";
    } else {
      EXPECT_TRUE(content == found->second) << name << " differs";
    }
  }
}

// Picks values from a seed; the same on every machine.
class Picker {
 public:
  explicit Picker(std::uint64_t seed) : random_(seed) {}
  template <typename T>
  T Of(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }

 private:
  std::mt19937_64 random_;
};

class ReshardRoundTripTest : public ::testing::Test {
 protected:
  fs::path model() const { return dir_ / "model"; }
  fs::path ranks() const { return dir_ / "ranks"; }
  fs::path again() const { return dir_ / "again"; }

  // Some deployment of the tiny-tp preset: 16 heads, 4 main layers and an MTP layer, 32 experts of
  // 256 rows in blocks of 128.
  static ReshardOptions RandomOptions(std::uint64_t seed) {
    Picker pick(seed);
    ReshardOptions options;
    convert::ParallelOptions& parallel = options.parallel;
    parallel.tp = pick.Of<std::uint64_t>({1, 2, 4, 8});
    parallel.ep = pick.Of<std::uint64_t>({1, 2, 4, 8, 16});
    const std::uint64_t stage = std::max(*parallel.tp, *parallel.ep);
    // Two ranks at most share an expert without cutting through a block.
    if (*parallel.tp > 2 * *parallel.ep) parallel.ep = *parallel.tp / 2;
    parallel.dp =
        stage / *parallel.tp * (stage == *parallel.ep ? pick.Of<std::uint64_t>({1, 2}) : 1);
    parallel.pp = pick.Of<std::uint64_t>({1, 1, 2, 3});
    parallel.dense_tp = pick.Of<std::uint64_t>({1, *parallel.tp});
    parallel.shared_expert_tp = 1;
    parallel.embed_tp = pick.Of<std::uint64_t>({1, *parallel.tp, stage});
    parallel.redundant_experts = pick.Of<std::uint64_t>({0, 0, 16, 32});
    options.placement.kind = pick.Of({PlacementKind::kContiguous, PlacementKind::kRoundRobin});
    options.grouping = pick.Of({RankGrouping::kRank, RankGrouping::kComponent});
    options.max_shard_bytes = pick.Of<std::uint64_t>({64 << 10, 1 << 20, 5ULL << 30});
    return options;
  }

  static std::string Text(const ReshardOptions& options) {
    const convert::ParallelOptions& parallel = options.parallel;
    return fmt::format("tp {} ep {} dp {} pp {} dense {} embed {} redundant {} {} {} {}",
                       *parallel.tp, *parallel.ep, *parallel.dp, *parallel.pp, *parallel.dense_tp,
                       *parallel.embed_tp, parallel.redundant_experts,
                       PlacementName(options.placement.kind), GroupingName(options.grouping),
                       options.max_shard_bytes);
  }

  void ExpectTheWayBack(const ReshardOptions& options) const {
    RunReshard(model(), ranks(), options);
    const convert::MergeReport merged = RunMerge(ranks(), again());
    EXPECT_TRUE(merged.original) << ::testing::PrintToString(merged.differences);
    ExpectSameFiles(model(), again());
  }
  void Clear() const {
    for (const char* const name : {"ranks", "again"}) fs::remove_all(dir_ / name);
  }

  TempDir dir_{MemoryDirectory()};
};

TEST_F(ReshardRoundTripTest, EveryDeploymentComesBackToTheByte) {
  MakeSample(SamplePreset::kTinyTp, 1, model());
  for (std::uint64_t seed = 0; seed < 12; seed += Stride(3)) {
    const ReshardOptions options = RandomOptions(seed);
    SCOPED_TRACE(Text(options));
    ExpectTheWayBack(options);
    Clear();
  }
}

// 64 ranks share 1000 rows padded to 1024: the last one's 16 are padding.
TEST_F(ReshardRoundTripTest, RanksOfPaddingAloneComeBack) {
  MakeSample(SamplePreset::kTinyTp, 8, model());
  ReshardOptions options;
  options.parallel.tp = 1;
  options.parallel.ep = 64;
  options.parallel.redundant_experts = 32;
  options.parallel.embed_tp = 64;
  options.grouping = RankGrouping::kComponent;
  ExpectTheWayBack(options);
  const auto last = ReadTensors(ranks() / "model-embed-tp-63-part-0.safetensors");
  EXPECT_EQ(last.at("lm_head.weight").bytes, std::string(16 * 192 * 2, '\0'));
  RunReshard(ranks(), dir_ / "on", options);
  ExpectSameRanks(ranks(), dir_ / "on");
}

TEST_F(ReshardRoundTripTest, RanksOfRanksAreThoseOfTheModel) {
  MakeSample(SamplePreset::kTinyTp, 2, model());
  for (std::uint64_t seed = 20; seed < 26; seed += Stride(3)) {
    const ReshardOptions from = RandomOptions(seed);
    const ReshardOptions to = RandomOptions(seed + 100);
    SCOPED_TRACE(Text(from) + " to " + Text(to));
    RunReshard(model(), ranks(), from);
    RunReshard(ranks(), again(), to);
    RunReshard(model(), dir_ / "direct", to);
    ExpectSameRanks(again(), dir_ / "direct");
    RunMerge(again(), dir_ / "merged");
    ExpectSameFiles(model(), dir_ / "merged");
    Clear();
    for (const char* const name : {"direct", "merged"}) fs::remove_all(dir_ / name);
  }
}

TEST_F(ReshardRoundTripTest, DamagedRanksMakeNoRanks) {
  MakeSample(SamplePreset::kTiny, 2, model());
  ReshardOptions options;
  options.parallel.ep = 2;
  RunReshard(model(), ranks(), options);
  const std::string name = "model-rank-1-part-0.safetensors";
  std::string content = ReadFile(ranks() / name);
  content[content.size() - 5] ^= 1;
  WriteFile(ranks() / name, content);
  options.parallel.ep = 4;
  const Error error = ErrorOf([&] { RunReshard(ranks(), again(), options); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), ::testing::HasSubstr(name));
  if (!fs::exists(again())) return;
  for (const auto& [file, unused] : ReadTree(again())) {
    EXPECT_TRUE(file.ends_with(".partial") || file.starts_with(".dsv3-")) << file;
  }
}

TEST_F(ReshardRoundTripTest, EveryWayOutOfMisalignedBlocksComesBack) {
  MakeSample(SamplePreset::kTiny, 3, model());  // an MLP of 320 rows, experts of 80
  for (const OnMisaligned way : {OnMisaligned::kReplicateModule, OnMisaligned::kSubblock}) {
    SCOPED_TRACE(convert::OnMisalignedName(way));
    ReshardOptions options;
    options.parallel.tp = 2;
    options.on_misaligned = way;
    ExpectTheWayBack(options);
    // And on to other ranks, whose blocks need no cutting.
    options.parallel.tp = 1;
    options.parallel.ep = 4;
    options.on_misaligned = OnMisaligned::kError;
    RunReshard(ranks(), dir_ / "on", options);
    RunReshard(model(), dir_ / "direct", options);
    ExpectSameRanks(dir_ / "on", dir_ / "direct");
    Clear();
    for (const char* const name : {"direct", "on"}) fs::remove_all(dir_ / name);
  }
}

TEST_F(ReshardRoundTripTest, WhatWasDroppedOrBecameBf16IsTold) {
  MakeSample(SamplePreset::kTiny, 4, model());
  ReshardOptions options;
  options.parallel.tp = 2;
  options.on_misaligned = OnMisaligned::kBF16;
  RunReshard(model(), ranks(), options);
  EXPECT_FALSE(RunMerge(ranks(), again()).original);
  ExpectWithoutFindings(again());
  // The values are those of the whole model in BF16.
  Conversion(model(), dir_ / "bf16").Run();
  Conversion(again(), dir_ / "again-bf16").Run();
  EXPECT_EQ(ReadCheckpoint(dir_ / "bf16"), ReadCheckpoint(dir_ / "again-bf16"));
  Clear();
  options.parallel.tp = 1;
  options.parallel.ep = 2;
  options.keep_mtp = false;
  RunReshard(model(), ranks(), options);
  EXPECT_FALSE(RunMerge(ranks(), again()).original);
  ExpectWithoutFindings(again());
}

TEST_F(ReshardRoundTripTest, Bf16FromRanksNeedsTheWholeModel) {
  MakeSample(SamplePreset::kTiny, 4, model());
  ReshardOptions options;
  options.parallel.ep = 2;
  RunReshard(model(), ranks(), options);
  options.parallel.tp = 2;
  options.on_misaligned = OnMisaligned::kBF16;
  const Error error = ErrorOf([&] { RunReshard(ranks(), again(), options); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), ::testing::HasSubstr("dsv3-reshard merge"));
  EXPECT_FALSE(fs::exists(again()));
}

TEST_F(ReshardRoundTripTest, ABf16ModelIsCutAnywhere) {
  MakeSample(SamplePreset::kTiny, 5, dir_ / "fp8");
  Conversion(dir_ / "fp8", model()).Run();
  fs::remove(model() / "checkpoint.manifest.json");
  ReshardOptions options;
  options.parallel.tp = 2;
  ExpectTheWayBack(options);
  options.format = RankFormat::kDeepseek;
  options.keep_mtp = true;
  Clear();
  ExpectTheWayBack(options);
}

TEST_F(ReshardRoundTripTest, EnginesKeysComeBack) {
  MakeSample(SamplePreset::kTinyTp, 6, model());
  ReshardOptions options;
  options.parallel.tp = 2;
  options.parallel.ep = 4;
  const convert::ReshardReport named = RunReshard(model(), dir_ / "named", options);
  nlohmann::json keys;
  for (const convert::RankReport& rank : named.ranks) {
    for (const auto& [name, tensor] : ReadTensors(dir_ / "named", rank.files)) {
      keys["engine." + name] = {{"dtype", formats::DtypeName(tensor.dtype)},
                                {"shape", tensor.shape},
                                {"sources", {name}}};
    }
  }
  WriteFile(dir_ / "keys.json", keys.dump());
  options.format = RankFormat::kKeys;
  options.keys = dir_ / "keys.json";
  options.max_shard_bytes = 1 << 20;
  ExpectTheWayBack(options);
}

}  // namespace
}  // namespace dsv3::testing

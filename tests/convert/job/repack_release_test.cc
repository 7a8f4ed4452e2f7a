// --delete-source-shards of repack: cuts the power after every change, and continues with what is
// left of the source.

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/recipes/repack_test.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

// Codes, scales and the scales of the partner lie in different files.
TinyCheckpoint SpreadExpert() {
  TinyCheckpoint checkpoint = V4Checkpoint();
  checkpoint.Find(std::string(kExpert) + "w3.scale").shard = kTinyShard3;
  return checkpoint;
}

class RepackReleaseTest : public ::testing::Test {
 protected:
  static Conversion Command(const fs::path& from, const fs::path& to, RepackTarget target) {
    return {from, to, convert::RepackConversion({.to = target})};
  }

  static Conversion Freeing(const fs::path& root, RepackTarget target) {
    Conversion conversion = Command(root / "in", root / "out", target);
    conversion.request.run.delete_source_shards = true;
    return conversion;
  }

  // Converts live_/in; after each power cut the same command must end with the same output and
  // without shards of the source.
  void ExpectRecoversFromEveryPowerCut(RepackTarget target) {
    const auto in_times = FileTimes(live_ / "in");
    Command(live_ / "in", temp_ / "expected", target).Run();
    const Tree expected = ReadTree(temp_ / "expected");
    QuickFileSystem quick;
    RecordingFileSystem recorder(quick, live_);
    Freeing(live_, target).Run(recorder);
    ExpectSameTree(ReadTree(live_ / "out"), expected);
    std::set<Tree> seen;
    std::set<std::size_t> left;  // files of the source that a run found
    ForEachCrash(recorder, temp_ / "state", in_times, seen, [&](const fs::path& state) {
      ExpectNothingHalfDone(TreeOrNothing(state / "out"), {expected});
      left.insert(ReadTree(state / "in").size());
      try {
        Freeing(state, target).Run();
      } catch (const Error& error) {
        ADD_FAILURE() << "the same command fails: " << error.what();
      }
      ExpectSameTree(ReadTree(state / "out"), expected);
      for (const auto& [name, content] : ReadTree(state / "in")) EXPECT_FALSE(IsShard(name));
    });
    EXPECT_GE(left.size(), 4U);  // all shards, and with one, two and three of them gone
  }

  TempDir temp_{MemoryDirectory()};
  const fs::path live_ = temp_ / "live";
};

TEST_F(RepackReleaseTest, Fp8GoesShardByShard) {
  SpreadExpert().Write(live_ / "in");
  ExpectRecoversFromEveryPowerCut(RepackTarget::kFp8);
}

TEST_F(RepackReleaseTest, NvFp4KeepsScalesThatWeightsShare) {
  SpreadExpert().Write(live_ / "in");
  ExpectRecoversFromEveryPowerCut(RepackTarget::kNvFp4ModelOpt);
}

TEST_F(RepackReleaseTest, TheOtherToolsNvFp4GoesShardByShard) {
  TinyCheckpoint checkpoint = SpreadExpert();
  // compressed-tensors has no description of FP8 beside NVFP4.
  checkpoint.DropContaining("wq_a");
  checkpoint.Write(temp_ / "mxfp4");
  Command(temp_ / "mxfp4", live_ / "in", RepackTarget::kNvFp4ModelOpt).Run();
  ExpectRecoversFromEveryPowerCut(RepackTarget::kNvFp4CompressedTensors);
}

}  // namespace
}  // namespace dsv3::testing

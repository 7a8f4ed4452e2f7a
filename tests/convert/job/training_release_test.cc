// --delete-source-shards of training checkpoints and of layout: cuts the power after every change,
// and continues with what is left of the source.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/layout.h"
#include "convert/recipes/train_to_infer.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/training_files.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TrainingReleaseTest : public ::testing::Test {
 protected:
  // The command on `root`/in; of some tests IN is a file in it.
  Conversion Command(const fs::path& root) const {
    Conversion conversion(root / "in" / file_, root / "out",
                          convert::TrainToInferConversion({.shard_bytes = kShardBytes}));
    conversion.request.run.delete_source_shards = true;
    configure_(conversion);
    return conversion;
  }

  static Tree WithoutDirectories(const fs::path& directory) {
    Tree tree = ReadTree(directory);
    std::erase_if(tree, [](const auto& entry) { return entry.first.ends_with('/'); });
    return tree;
  }

  // Converts live_/in; after each power cut the same command must end with the same output, and
  // with `staying` alone in IN. No file may go before what is made of it is there: else the command
  // could not end.
  void ExpectRecoversFromEveryPowerCut(const std::set<std::string>& staying) {
    const auto in_times = FileTimes(live_ / "in");
    Conversion plain = Command(live_);
    plain.request.run.delete_source_shards = false;
    plain.request.output = temp_ / "expected";
    plain.Run();
    const Tree expected = ReadTree(temp_ / "expected");
    QuickFileSystem quick;
    RecordingFileSystem recorder(quick, live_);
    Command(live_).Run(recorder);
    ExpectSameTree(ReadTree(live_ / "out"), expected);
    std::set<Tree> seen;
    ForEachCrash(
        recorder, temp_ / "state", in_times, seen,
        [&](const fs::path& state) {
          const Tree before = TreeOrNothing(state / "out");
          ExpectNothingHalfDone(before, {expected});
          const auto again = [&] {
            try {
              Command(state).Run();
            } catch (const Error& error) {
              ADD_FAILURE() << "the same command fails: " << error.what();
            }
          };
          again();
          ExpectSameTree(ReadTree(state / "out"), expected);
          std::set<std::string> names;
          for (const auto& [name, content] : WithoutDirectories(state / "in")) names.insert(name);
          EXPECT_EQ(names, staying);
          again();  // nothing to do, without the source
          ExpectSameTree(ReadTree(state / "out"), expected);
        },
        Stride(5));
    std::set<std::ptrdiff_t> left;  // files of the source that a run finds
    for (const Tree& tree : seen) {
      left.insert(std::count_if(tree.begin(), tree.end(), [](const auto& file) {
        return file.first.starts_with("in/") && !file.first.ends_with('/');
      }));
    }
    states_with_other_sources_ = left.size();
  }

  static constexpr std::uint64_t kShardBytes = 3000;

  const convert::testing::ElementModel model_;
  TempDir temp_{MemoryDirectory()};
  const fs::path live_ = temp_ / "live";
  std::string file_;
  std::function<void(Conversion&)> configure_ = [](Conversion&) {};
  std::size_t states_with_other_sources_ = 0;
};

TEST_F(TrainingReleaseTest, DistributedCheckpointsGoFileByFile) {
  WriteDcp(model_, live_ / "in");
  ExpectRecoversFromEveryPowerCut({".metadata", "config.json", kOptimizerFile});
  EXPECT_EQ(states_with_other_sources_, 5U);  // 7 files to 3
}

TEST_F(TrainingReleaseTest, ShardedSafetensorsGoFileByFile) {
  WriteDcpSafetensors(model_, live_ / "in");
  ExpectRecoversFromEveryPowerCut({"config.json"});
  EXPECT_GE(states_with_other_sources_, 3U);
}

TEST_F(TrainingReleaseTest, FilesOfTorchSaveGoOneByOne) {
  WriteTorchFiles(model_, 3, live_ / "in");
  ExpectRecoversFromEveryPowerCut({"config.json", "pytorch_model.bin.index.json"});
  EXPECT_EQ(states_with_other_sources_, 4U);
}

TEST_F(TrainingReleaseTest, OneFileGoesWhenAllShardsAreThere) {
  file_ = "model.pt";
  WriteTorchFile(model_, live_ / "in" / file_);
  ExpectRecoversFromEveryPowerCut({"config.json"});
  EXPECT_EQ(states_with_other_sources_, 2U);
}

TEST_F(TrainingReleaseTest, LayoutTakesShardsOfHuggingFaceAndOfMindFormers) {
  WriteTorchFile(model_, temp_ / "torch" / "model.pt");
  Conversion(temp_ / "torch", live_ / "in",
             convert::TrainToInferConversion({.shard_bytes = kShardBytes}))
      .Run();
  fs::remove(live_ / "in" / "checkpoint.manifest.json");
  configure_ = [](Conversion& conversion) {
    conversion.kind =
        convert::LayoutConversion({.to = "mindformers-train", .shard_bytes = kShardBytes});
  };
  ExpectRecoversFromEveryPowerCut({"config.json", "model.safetensors.index.json"});
  EXPECT_GE(states_with_other_sources_, 3U);

  fs::rename(temp_ / "expected", temp_ / "mindformers");
  fs::remove_all(live_);
  fs::create_directories(live_);
  fs::rename(temp_ / "mindformers", live_ / "in");
  fs::remove(live_ / "in" / "checkpoint.manifest.json");
  configure_ = [](Conversion& conversion) {
    conversion.kind = convert::LayoutConversion({.to = "hf", .shard_bytes = kShardBytes});
  };
  ExpectRecoversFromEveryPowerCut({"config.json", "param_name_map.json"});
  EXPECT_EQ(states_with_other_sources_, 4U);
}

TEST_F(TrainingReleaseTest, RankShardsGoWithTheLastFile) {
  MakeSample(convert::SamplePreset::kTinyTp, 1, temp_ / "model");
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  RunReshard(temp_ / "model", live_ / "in", options);
  Conversion plain = Command(live_);
  plain.kind = convert::LayoutConversion({.to = "hf", .shard_bytes = 1'000'000});
  plain.request.run.delete_source_shards = false;
  plain.request.output = temp_ / "expected";
  plain.Run();
  plain.request.run.delete_source_shards = true;
  plain.request.output = live_ / "out";
  const convert::ConversionReport report = plain.Run();
  ExpectSameTree(ReadTree(live_ / "out"), ReadTree(temp_ / "expected"));
  EXPECT_GE(report.freed_source_shards, 2U);
  for (const auto& [name, content] : ReadTree(live_ / "in")) EXPECT_FALSE(IsShard(name)) << name;
  EXPECT_TRUE(fs::exists(live_ / "in" / "layout.json"));
}

TEST_F(TrainingReleaseTest, SaysWhatStaysAndWhatGoesBesideTheModel) {
  WriteDcp(model_, live_ / "in");
  Conversion conversion = Command(live_);
  WarningSink sink;
  QuickFileSystem quick;
  const convert::ConversionReport report = conversion.Run(quick, sink);
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_THAT(sink.warnings(),
              ElementsAre(HasSubstr("1 tensor of the source is not of the model, such as those of "
                                    "an optimizer; where they lie in files with weights")));
  ASSERT_FALSE(report.facts.empty());
  EXPECT_EQ(report.facts.back().member, std::string("staying"));
  EXPECT_THAT(report.facts.back().names, ElementsAre(".metadata", kOptimizerFile, "config.json"));
  EXPECT_THAT(report.facts.back().text, HasSubstr("3 files of IN"));
}

TEST_F(TrainingReleaseTest, AsksWithWhatGoesAndDeletesNothingAgainstTheAnswer) {
  WriteDcp(model_, live_ / "in");
  const Tree before = ReadTree(live_ / "in");
  Conversion conversion = Command(live_);
  conversion.request.run.confirm_deletion = [](const std::vector<convert::SourceDeletion>& files,
                                               const std::string& beside) {
    EXPECT_EQ(files.size(), 4U);
    EXPECT_THAT(beside, HasSubstr("1 tensor of the source"));
    throw Error(ErrorCode::kInterrupted, "no");
  };
  EXPECT_EQ(ErrorOf([&] { conversion.Run(); }).code(), ErrorCode::kInterrupted);
  EXPECT_EQ(ReadTree(live_ / "in"), before);
  EXPECT_FALSE(fs::exists(live_ / "out"));
}

TEST_F(TrainingReleaseTest, ALinkToAFileElsewhereGoesAndItsFileStays) {
  WriteDcp(model_, live_ / "in");
  fs::create_directories(temp_ / "store");
  fs::rename(live_ / "in" / "__1_0.distcp", temp_ / "store" / "__1_0.distcp");
  fs::create_symlink(temp_ / "store" / "__1_0.distcp", live_ / "in" / "__1_0.distcp");
  Command(live_).Run();
  EXPECT_FALSE(fs::is_symlink(live_ / "in" / "__1_0.distcp"));
  EXPECT_TRUE(fs::exists(temp_ / "store" / "__1_0.distcp"));
}

}  // namespace
}  // namespace dsv3::testing

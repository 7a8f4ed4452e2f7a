// Cuts the power after every change of a conversion, and looks at what is left.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::Crash;
using testing::ExpectNothingHalfDone;
using testing::ExpectSameTree;
using testing::IsShard;
using testing::QuickFileSystem;
using testing::ReadTree;
using testing::RecordingFileSystem;
using testing::Tree;
using testing::TreeOrNothing;

constexpr char kIndex[] = "model.safetensors.index.json";

// A conversion in a directory that holds input ("in") and output ("out"), to be interrupted.
class CrashTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(live_ / "in");
    in_times_ = testing::FileTimes(live_ / "in");
    testing::WriteFile(live_ / "out" / "placeholder", "");
    fs::remove(live_ / "out" / "placeholder");
  }

  Conversion Command(const fs::path& root) const {
    Conversion conversion(root / "in", root / "out", kind_);
    configure_(conversion.request);
    return conversion;
  }

  using Check = std::function<void(const fs::path& root)>;

  // Runs the command on `live` and calls `check` for states that a power cut can leave.
  void ForEachCrash(const fs::path& live, const Check& check,
                    std::size_t stride = testing::Stride(5)) {
    QuickFileSystem quick;
    RecordingFileSystem recorder(quick, live);
    Command(live).Run(recorder);
    operations_ = recorder.operations().size();
    testing::ForEachCrash(recorder, temp_ / "state", in_times_, seen_, check, stride);
  }

  // Copies of the states that `choose` picks from those of a fresh run.
  std::vector<fs::path> KeepStates(const std::function<bool(const fs::path& state)>& choose) {
    std::vector<fs::path> states;
    ForEachCrash(
        live_,
        [&](const fs::path& state) {
          if (!choose(state)) return;
          states.push_back(temp_ / ("interrupted" + std::to_string(states.size())));
          fs::copy(state, states.back(), fs::copy_options::recursive);
          testing::RestoreFileTimes(states.back() / "in", in_times_);
        },
        1);
    return states;
  }

  // The check of every test: nothing half done is visible, and the same command ends as if nothing
  // had happened.
  void ExpectRecovers(const fs::path& state, const std::vector<Tree>& generations) {
    const Tree before = TreeOrNothing(state / "out");
    ExpectNothingHalfDone(before, generations);
    try {
      Command(state).Run();
    } catch (const Error& error) {
      ADD_FAILURE() << "the same command fails: " << error.what();
      return;
    }
    ExpectSameTree(ReadTree(state / "out"), generations.back());
  }

  testing::TempDir temp_{testing::MemoryDirectory()};
  fs::path live_ = temp_ / "live";
  std::map<std::string, fs::file_time_type> in_times_;
  std::function<void(JobRequest&)> configure_ = [](JobRequest&) {};
  ConversionKind kind_ = Fp8ToBf16Conversion();
  std::set<Tree> seen_;
  std::size_t operations_ = 0;  // of the last run that was recorded
};

// The output of an uninterrupted run.
Tree Uninterrupted(Conversion conversion, const fs::path& output) {
  conversion.request.output = output;
  conversion.request.run.delete_source_shards = false;
  conversion.Run();
  return ReadTree(output);
}

TEST_F(CrashTest, FreshOutputRecoversFromEveryPowerCut) {
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  ForEachCrash(live_, [&](const fs::path& state) { ExpectRecovers(state, {expected}); });
  // Each of 11 files is created, synced and renamed, and directories are synced.
  EXPECT_GT(operations_, 40U);
}

TEST_F(CrashTest, OutputWithoutChecksumsRecoversFromEveryPowerCut) {
  configure_ = [](JobRequest& request) { request.run.checksum = ChecksumMode::kNone; };
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  ForEachCrash(live_, [&](const fs::path& state) { ExpectRecovers(state, {expected}); });
}

TEST_F(CrashTest, OverwrittenOutputRecoversFromEveryPowerCut) {
  // An older output with a shard and a side file that the new one does not have.
  testing::TinyCheckpoint older = testing::SmallFp8Checkpoint();
  older.Add("model-00005-of-00005.safetensors", "z.weight", formats::Dtype::kBF16, {6});
  older.Find("router.bias").bytes[0] ^= 1;
  older.side_files["old.txt"] = "old";
  older.Write(temp_ / "older");
  Conversion(temp_ / "older", live_ / "out").Run();
  testing::WriteFile(live_ / "out" / "mine.txt", "not dsv3's");
  Tree old_output = ReadTree(live_ / "out");
  Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  expected["mine.txt"] = "not dsv3's";

  configure_ = [](JobRequest& request) { request.run.overwrite = true; };
  ForEachCrash(live_, [&](const fs::path& state) {
    ExpectRecovers(state, {old_output, expected});
  });
}

// Files of others, some of whose names the conversion writes.
Tree WriteForeignFiles(const fs::path& output) {
  for (const std::string name :
       {"config.json", "README.md", "model-00001-of-00004.safetensors", kIndex}) {
    testing::WriteFile(output / name, "of others, as " + name);
  }
  testing::WriteFile(output / "mine.txt", "not dsv3's");
  return ReadTree(output);
}

TEST_F(CrashTest, ForeignFilesGoOnlyOnceTheJournalListsThem) {
  Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  expected["mine.txt"] = "not dsv3's";
  const Tree foreign = WriteForeignFiles(live_ / "out");
  configure_ = [](JobRequest& request) { request.run.overwrite = true; };
  ForEachCrash(live_, [&](const fs::path& state) {
    const Tree out = ReadTree(state / "out");
    const bool began = out.count(".dsv3-journal") != 0 || out == expected;
    for (const auto& [name, content] : foreign) {
      if (began) continue;
      EXPECT_TRUE(out.count(name) != 0 && out.at(name) == content) << name;
    }
    // Once the journal lists them, the command goes on without the option.
    configure_ = [&](JobRequest& request) { request.run.overwrite = !began; };
    ExpectRecovers(state, {foreign, expected});
  });
}

TEST_F(CrashTest, ForeignFilesInTheWayOfAnUnfinishedOutputGoOnlyOnceTheJournalListsThem) {
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  const std::vector<fs::path> interrupted = KeepStates([](const fs::path& state) {
    const Tree out = TreeOrNothing(state / "out");
    const auto journal = out.find(".dsv3-journal");
    if (journal == out.end() || out.count("config.json") == 0) return false;
    // A file with a line of its own, behind the head's, is the job's and not in its way.
    const std::string lines = journal->second.substr(journal->second.find('\n') + 1);
    return out.count(testing::kTinyShard3) == 0 &&
           lines.find(testing::kTinyShard3) == std::string::npos;
  });
  ASSERT_FALSE(interrupted.empty());
  const fs::path live = interrupted.front();
  const std::string name = testing::kTinyShard3;
  testing::WriteFile(live / "out" / name, "of others");
  const std::string journal = testing::ReadFile(live / "out" / ".dsv3-journal");
  Tree foreign = expected;
  foreign[name] = "of others";
  configure_ = [](JobRequest& request) { request.run.overwrite = true; };
  seen_.clear();
  ForEachCrash(live, [&](const fs::path& state) {
    const Tree out = ReadTree(state / "out");
    const auto found = out.find(".dsv3-journal");
    if (found != out.end() && found->second == journal) {
      EXPECT_TRUE(out.count(name) != 0 && out.at(name) == "of others");
    }
    ExpectRecovers(state, {foreign, expected});
  });
}

TEST_F(CrashTest, SourceShardsGoOnlyWhenWhatNeedsThemIsDurable) {
  const Tree source = ReadTree(live_ / "in");
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  // Output file → source shards with its weights and scales.
  const std::map<std::string, std::set<std::string>> needs = {
      {testing::kTinyShard1, {testing::kTinyShard1, testing::kTinyShard2}},
      {testing::kTinyShard2, {testing::kTinyShard2, testing::kTinyShard4}},
      {testing::kTinyShard3, {testing::kTinyShard3, testing::kTinyShard4}}};
  configure_ = [](JobRequest& request) { request.run.delete_source_shards = true; };
  ForEachCrash(live_, [&](const fs::path& state) {
    const Tree in = ReadTree(state / "in");
    const Tree out = TreeOrNothing(state / "out");
    for (const auto& [name, content] : source) {
      if (in.count(name) != 0) {
        EXPECT_TRUE(in.at(name) == content) << name << " was changed";
        continue;
      }
      EXPECT_TRUE(IsShard(name)) << name << " was removed";
      for (const auto& [output, shards] : needs) {
        if (shards.count(name) == 0) continue;
        const auto found = out.find(output);
        EXPECT_TRUE(found != out.end() && found->second == expected.at(output))
            << name << " is gone and " << output << " is not there";
      }
    }
    ExpectRecovers(state, {expected});
    for (const auto& [name, content] : ReadTree(state / "in")) {
      EXPECT_FALSE(IsShard(name)) << name << " was not freed";
    }
  });
}

// An edited BF16 checkpoint goes back to its original: some blocks are kept, some are not, and
// scales stand in other shards than their weights.
TEST_F(CrashTest, QuantisedLikeAnOriginalRecoversFromEveryPowerCut) {
  testing::TinyCheckpoint original = testing::SmallFp8Checkpoint();
  for (const char* name : {"c.weight_scale_inv", "d.weight_scale_inv"}) {
    const testing::TinyTensor scale = original.Find(name);
    original.tensors.erase(std::find_if(original.tensors.begin(), original.tensors.end(),
                                        [&](const auto& t) { return t.name == scale.name; }));
    original.AddScale(scale.shard, scale.name, formats::Dtype::kF32, scale.shape);
  }
  original.Write(temp_ / "original");
  fs::remove_all(live_ / "in");
  Conversion(temp_ / "original", live_ / "in").Run();
  const fs::path edited = live_ / "in" / testing::kTinyShard1;
  std::string content = testing::ReadFile(edited);
  content[content.size() - 3] ^= 0x11;
  testing::WriteFile(edited, content);
  in_times_ = testing::FileTimes(live_ / "in");

  kind_ = Bf16ToFp8Conversion(
      {.nonfinite = quant::Nonfinite::kSaturate, .scales_from = temp_ / "original"});
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  const Tree originals = ReadTree(temp_ / "original");
  EXPECT_FALSE(expected.at(testing::kTinyShard1) == originals.at(testing::kTinyShard1));
  EXPECT_TRUE(expected.at(testing::kTinyShard3) == originals.at(testing::kTinyShard3));
  EXPECT_TRUE(expected.at(kIndex) == originals.at(kIndex));
  ForEachCrash(live_, [&](const fs::path& state) { ExpectRecovers(state, {expected}); });
}

TEST_F(CrashTest, RecoversFromAPowerCutWhileRecovering) {
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  std::size_t round = 0;
  const auto now_and_then = [&](const fs::path&) { return ++round % 16 == 0; };
  const std::vector<fs::path> states = KeepStates(now_and_then);
  ASSERT_GE(states.size(), 3U);
  for (const fs::path& state : states) {
    SCOPED_TRACE(state.filename().string());
    ForEachCrash(state, [&](const fs::path& again) { ExpectRecovers(again, {expected}); });
  }
}

TEST_F(CrashTest, RecoversFromAPowerCutWhileADamagedFileIsMadeAgain) {
  const Tree expected = Uninterrupted(Command(live_), temp_ / "expected");
  const std::vector<fs::path> states = KeepStates([](const fs::path& state) {
    return fs::exists(state / "out" / testing::kTinyShard2) && !fs::exists(state / "out" / kIndex);
  });
  ASSERT_FALSE(states.empty());
  const fs::path damaged = states[0] / "out" / testing::kTinyShard2;
  std::string content = testing::ReadFile(damaged);
  content.back() ^= 1;
  testing::WriteFile(damaged, content);
  ForEachCrash(states[0], [&](const fs::path& again) {
    Command(again).Run();
    ExpectSameTree(ReadTree(again / "out"), expected);
  });
}

}  // namespace
}  // namespace dsv3::convert

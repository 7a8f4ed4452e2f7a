// Shards that keep every byte share them with the source's.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/recording_file_system.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

ino_t InodeOf(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_ino;
}

constexpr char kShared[] = "model-00001-of-00004.safetensors";

class SharedFilesTest : public TrainToInferTest {
 protected:
  void SetUp() override { MakeSample(convert::SamplePreset::kTiny, 1, in_); }

  Conversion Drop(const fs::path& output, bool link) const {
    Conversion conversion = Command(in_, output, {.mtp = convert::MtpAction::kDrop});
    conversion.request.run.link = link;
    return conversion;
  }

  fs::path in_ = dir_ / "in";
};

// As a file system with reflinks: sharing gives another file with the same bytes.
class CloningFileSystem final : public formats::FileSystem {
 public:
  std::unique_ptr<formats::OutputFile> Share(const fs::path& from, const fs::path& to,
                                             formats::Sharing sharing) override {
    EXPECT_EQ(sharing, formats::Sharing::kBlocks);
    ++shared;
    WriteFile(to, ReadFile(from));
    return inner_.OpenExisting(to);
  }
  std::unique_ptr<formats::OutputFile> Create(const fs::path& path, std::uint64_t bytes) override {
    return inner_.Create(path, bytes);
  }
  std::unique_ptr<formats::OutputFile> OpenExisting(const fs::path& path) override {
    return inner_.OpenExisting(path);
  }
  std::unique_ptr<formats::ScratchFile> CreateScratch(
      const std::filesystem::path& directory) override {
    return inner_.CreateScratch(directory);
  }
  void Rename(const fs::path& from, const fs::path& to) override { inner_.Rename(from, to); }
  void Remove(const fs::path& path) override { inner_.Remove(path); }
  void CreateDirectory(const fs::path& path) override { inner_.CreateDirectory(path); }
  void RemoveDirectory(const fs::path& path) override { inner_.RemoveDirectory(path); }
  void SyncDirectory(const fs::path&) override {}

  std::atomic<int> shared = 0;

 private:
  QuickFileSystem inner_;
};

TEST_F(SharedFilesTest, LinksWhatKeepsEveryByteAndNothingElse) {
  const convert::ConversionReport report = Drop(dir_ / "linked", true).Run();
  Drop(dir_ / "copied", false).Run();
  EXPECT_TRUE(ReadTree(dir_ / "linked") == ReadTree(dir_ / "copied"));
  ASSERT_FALSE(report.facts.empty());
  const convert::ReportFact& linked = report.facts[0];
  EXPECT_EQ(linked.member, "linked");
  for (const convert::OutputFileReport& file : report.files) {
    const bool is_linked =
        std::find(linked.names.begin(), linked.names.end(), file.name) != linked.names.end();
    EXPECT_EQ(InodeOf(dir_ / "linked" / file.name) == InodeOf(in_ / file.name), is_linked);
    EXPECT_EQ(ReadFile(dir_ / "linked" / file.name) == ReadFile(in_ / file.name), is_linked);
  }
  EXPECT_GE(linked.names.size(), 2U);
  EXPECT_LT(report.bytes_written, 200'000U);
  EXPECT_NE(InodeOf(dir_ / "linked" / "tokenizer.json"), InodeOf(in_ / "tokenizer.json"));
}

TEST_F(SharedFilesTest, LinksTheFileBehindASymbolicLink) {
  const fs::path snapshot = dir_ / "snapshot";
  for (const fs::directory_entry& entry : fs::directory_iterator(in_)) {
    fs::create_directories(snapshot);
    fs::create_symlink(entry.path(), snapshot / entry.path().filename());
  }
  Conversion conversion = Command(snapshot, dir_ / "out", {.mtp = convert::MtpAction::kDrop});
  conversion.request.run.link = true;
  conversion.Run();
  EXPECT_EQ(InodeOf(dir_ / "out" / kShared), InodeOf(in_ / kShared));
}

TEST_F(SharedFilesTest, ClonesWhereTheFileSystemCan) {
  CloningFileSystem cloning;
  const convert::ConversionReport report = Drop(dir_ / "cloned", false).Run(cloning);
  Drop(dir_ / "copied", false).Run();
  EXPECT_GE(cloning.shared, 2);
  EXPECT_TRUE(ReadTree(dir_ / "cloned") == ReadTree(dir_ / "copied"));
  EXPECT_LT(report.bytes_written, 200'000U);
}

// A checkpoint of a few KB of which every shard keeps every byte.
class SharedShardsTest : public TrainToInferTest {
 protected:
  void SetUp() override { SmallFp8Checkpoint().Write(in_); }

  static Conversion Keep(const fs::path& root, bool link) {
    Conversion conversion = Command(root / "in", root / "out", {});
    conversion.request.run.link = link;
    return conversion;
  }

  TempDir memory_{MemoryDirectory()};
  fs::path live_ = memory_ / "live";
  fs::path in_ = live_ / "in";
};

// A run that ends early leaves a second name of the source's shard; the next run must not write
// through it.
TEST_F(SharedShardsTest, NoLaterRunWritesThroughALinkThatARunLeft) {
  const Tree before = ReadTree(in_);
  QuickFileSystem quick;
  std::size_t left = 0;
  bool ended = false;
  for (std::size_t change = 0; !ended; ++change) {
    const fs::path out = live_ / "out";
    fs::remove_all(out);
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    try {
      Keep(live_, true).Run(faulty);
      ended = true;
    } catch (const Error&) {
    }
    const std::string partial = std::string(kShared) + ".partial";
    if (fs::exists(out / partial) && InodeOf(out / partial) == InodeOf(in_ / kShared)) ++left;
    Keep(live_, false).Run();
    ASSERT_TRUE(ReadTree(in_) == before) << "after " << change << " changes";
  }
  EXPECT_GT(left, 0U);
}

TEST_F(SharedShardsTest, EveryPowerCutLeavesWhatTheNextRunContinues) {
  const auto times = FileTimes(in_);
  fs::create_directories(live_ / "out");
  QuickFileSystem quick;
  RecordingFileSystem recorder(quick, live_);
  Keep(live_, true).Run(recorder);
  const Tree expected = ReadTree(live_ / "out");
  std::set<Tree> seen;
  ForEachCrash(recorder, memory_ / "state", times, seen, [&](const fs::path& state) {
    ExpectNothingHalfDone(TreeOrNothing(state / "out"), {expected});
    Keep(state, true).Run();
    ExpectSameTree(ReadTree(state / "out"), expected);
  });
  EXPECT_GT(seen.size(), 20U);
}

// A shard that an interrupted run freed is there no more, but its header was saved.
TEST_F(SharedShardsTest, ContinuesAfterShardsWereFreed) {
  Keep(live_, false).Run();
  const Tree expected = ReadTree(live_ / "out");
  QuickFileSystem quick;
  std::size_t freed = 0;
  bool ended = false;
  for (std::size_t change = 0; !ended; ++change) {
    const fs::path root = memory_ / "freeing";
    fs::remove_all(root);
    fs::create_directories(root);
    fs::copy(in_, root / "in", fs::copy_options::recursive);
    Conversion conversion = Keep(root, false);
    conversion.request.run.delete_source_shards = true;
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    try {
      conversion.Run(faulty);
      ended = true;
    } catch (const Error&) {
    }
    if (ended || fs::exists(root / "in" / kShared)) continue;
    ++freed;
    conversion.Run();
    ASSERT_TRUE(ReadTree(root / "out") == expected) << "after " << change << " changes";
  }
  EXPECT_GT(freed, 0U);
}

}  // namespace
}  // namespace dsv3::testing

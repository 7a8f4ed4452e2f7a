// --delete-source-shards.

#include "convert/job/source_release.h"

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/manifest.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::FaultyFileSystem;
using ::testing::HasSubstr;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::kTinyShard3;
using testing::kTinyShard4;
using testing::QuickFileSystem;
using testing::ReadTree;
using Outcome = ConversionReport::Outcome;

// Tells of renames and removals before they happen.
class WatchedFileSystem final : public formats::FileSystem {
 public:
  using Hook = std::function<void(const fs::path& path)>;
  Hook on_remove = [](const fs::path&) {};
  Hook on_renamed = [](const fs::path&) {};

  std::unique_ptr<formats::OutputFile> Create(const fs::path& path, std::uint64_t bytes) override {
    return inner_.Create(path, bytes);
  }
  std::unique_ptr<formats::OutputFile> OpenExisting(const fs::path& path) override {
    return inner_.OpenExisting(path);
  }
  void Rename(const fs::path& from, const fs::path& to) override {
    inner_.Rename(from, to);
    on_renamed(to);
  }
  void Remove(const fs::path& path) override {
    on_remove(path);
    inner_.Remove(path);
  }
  void CreateDirectory(const fs::path& path) override { inner_.CreateDirectory(path); }
  void RemoveDirectory(const fs::path& path) override { inner_.RemoveDirectory(path); }
  void SyncDirectory(const fs::path& path) override { inner_.SyncDirectory(path); }

 private:
  QuickFileSystem inner_;
};

class SourceReleaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(in_);
    Conversion(in_, dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Command() const {
    Conversion conversion(in_, out_);
    conversion.request.run.delete_source_shards = true;
    return conversion;
  }

  std::set<std::string> ShardsLeft() const {
    std::set<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(in_)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".safetensors")) names.insert(name);
    }
    return names;
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  const fs::path in_ = dir_ / "in";
  const fs::path out_ = dir_ / "out";
  std::map<std::string, std::string> expected_;
};

TEST_F(SourceReleaseTest, FreesEveryShardAndNothingElse) {
  auto source = ReadTree(in_);
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_EQ(ReadTree(out_), expected_);
  for (const char* shard : {kTinyShard1, kTinyShard2, kTinyShard3, kTinyShard4}) {
    source.erase(shard);
  }
  EXPECT_EQ(ReadTree(in_), source);
}

TEST_F(SourceReleaseTest, AShardGoesOnlyWhenAllThatNeedsItIsInPlace) {
  const std::map<std::string, std::set<std::string>> needed_by = {
      {kTinyShard1, {kTinyShard1}},
      {kTinyShard2, {kTinyShard1, kTinyShard2}},  // a scale of shard 1
      {kTinyShard3, {kTinyShard3}},
      {kTinyShard4, {kTinyShard2, kTinyShard3}},  // nothing but scales
  };
  for (const unsigned threads : {1U, 4U}) {
    testing::SmallFp8Checkpoint().Write(in_);
    fs::remove_all(out_);
    WatchedFileSystem watched;
    std::size_t removed = 0;
    watched.on_remove = [&](const fs::path& path) {
      if (path.parent_path() != in_) return;
      ++removed;
      for (const std::string& output : needed_by.at(path.filename().string())) {
        EXPECT_TRUE(fs::exists(out_ / output)) << path << " goes before " << output;
      }
    };
    Conversion conversion = Command();
    conversion.request.run.threads = threads;
    conversion.Run(watched);
    EXPECT_EQ(removed, 4U);
  }
}

TEST_F(SourceReleaseTest, TheSameCommandThenSaysThatNothingIsToDo) {
  Command().Run();
  const std::string before = testing::DetailedListing(out_);
  EXPECT_EQ(Command().Run().outcome, Outcome::kNothingToDo);
  EXPECT_EQ(testing::DetailedListing(out_), before);
}

TEST_F(SourceReleaseTest, AnInterruptedRunGoesOnWithoutTheShardsThatItFreed) {
  // Ends at every change of the run, the last time after all.
  for (std::size_t change = 0;; ++change) {
    SCOPED_TRACE(change);
    fs::remove_all(in_);
    fs::remove_all(out_);
    testing::SmallFp8Checkpoint().Write(in_);
    QuickFileSystem quick;
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    try {
      Command().Run(faulty);
      break;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo) << error.message();
    }
    Command().Run();
    EXPECT_EQ(ReadTree(out_), expected_);
    EXPECT_TRUE(ShardsLeft().empty());
    if (HasFailure()) return;
  }
}

TEST_F(SourceReleaseTest, WhatWasReadBackWrongDeletesNothing) {
  WatchedFileSystem watched;
  watched.on_renamed = [&](const fs::path& path) {
    if (path.filename() != kTinyShard1) return;
    std::string content = testing::ReadFile(path);
    content.back() ^= 1;
    testing::WriteFile(path, content);
  };
  std::set<std::string> removed;
  watched.on_remove = [&](const fs::path& path) {
    if (path.parent_path() == in_) removed.insert(path.filename());
  };
  const Error error = testing::ErrorOf([&] { Command().Run(watched); });
  EXPECT_EQ(error.code(), ErrorCode::kVerification);
  EXPECT_THAT(error.message(), HasSubstr(kTinyShard1));
  EXPECT_THAT(error.message(), HasSubstr("not what was written"));
  EXPECT_EQ(removed.count(kTinyShard1), 0U);
  EXPECT_EQ(removed.count(kTinyShard2), 0U);
  // Undamaged next time.
  Command().Run();
  EXPECT_EQ(ReadTree(out_), expected_);
  EXPECT_TRUE(ShardsLeft().empty());
}

TEST_F(SourceReleaseTest, KeptOutputsFreeTheirShardsToo) {
  // A run that frees nothing ends before its index.
  QuickFileSystem quick;
  Conversion plain(in_, out_);
  for (std::size_t change = 0; !fs::exists(out_ / kTinyShard1); ++change) {
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    ASSERT_EQ(testing::ErrorOf([&] { plain.Run(faulty); }).code(), ErrorCode::kIo);
  }
  const ConversionReport report = Command().Run();
  EXPECT_GE(report.kept_files, 1U);
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_EQ(ReadTree(out_), expected_);
  EXPECT_TRUE(ShardsLeft().empty());
}

TEST_F(SourceReleaseTest, AFileThatWasDamagedAfterItsSourceWentIsBadInputAndStays) {
  QuickFileSystem quick;
  for (std::size_t change = 0; fs::exists(in_ / kTinyShard1); ++change) {
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    ASSERT_EQ(testing::ErrorOf([&] { Command().Run(faulty); }).code(), ErrorCode::kIo);
  }
  std::string content = testing::ReadFile(out_ / kTinyShard1);
  content.back() ^= 1;
  testing::WriteFile(out_ / kTinyShard1, content);
  const auto before = ReadTree(out_);
  const Error error = testing::ErrorOf([&] { Command().Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(kTinyShard1));
  EXPECT_THAT(error.message(), HasSubstr("--delete-source-shards"));
  EXPECT_EQ(ReadTree(out_), before);
}

class HubCacheReleaseTest : public SourceReleaseTest {
 protected:
  // Shards as a hub cache has them: links to blobs.
  void SetUp() override {
    SourceReleaseTest::SetUp();
    fs::create_directory(dir_ / "blobs");
    for (const std::string& name : ShardsLeft()) {
      fs::rename(in_ / name, dir_ / "blobs" / name);
      fs::create_symlink(fs::path("..") / "blobs" / name, in_ / name);
    }
  }
};

TEST_F(HubCacheReleaseTest, LinkAndBlobGo) {
  EXPECT_EQ(Command().Run().freed_source_shards, 4U);
  EXPECT_TRUE(ShardsLeft().empty());
  EXPECT_TRUE(fs::is_empty(dir_ / "blobs"));
  EXPECT_EQ(ReadTree(out_), expected_);
}

TEST_F(HubCacheReleaseTest, ALinkWhoseBlobIsGoneGoesWithTheNextRun) {
  WatchedFileSystem watched;
  watched.on_remove = [&](const fs::path& path) {
    if (path == in_ / kTinyShard1) throw Error(ErrorCode::kIo, "the power fails");
  };
  EXPECT_EQ(testing::ErrorOf([&] { Command().Run(watched); }).code(), ErrorCode::kIo);
  EXPECT_FALSE(fs::exists(dir_ / "blobs" / kTinyShard1));
  EXPECT_EQ(ShardsLeft().count(kTinyShard1), 1U);
  Command().Run();
  EXPECT_TRUE(ShardsLeft().empty());
  EXPECT_EQ(ReadTree(out_), expected_);
}

}  // namespace
}  // namespace dsv3::convert

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
using ::testing::ElementsAre;
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
  SourceReleaseTest() : SourceReleaseTest("in") {}
  // The source is at `in` below the directory of the test.
  explicit SourceReleaseTest(const std::string& in) : in_(dir_ / in) {}
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
  const fs::path in_;
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
  EXPECT_THAT(error.message(), HasSubstr("not those that were written"));
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

class LinkedReleaseTest : public SourceReleaseTest {
 protected:
  using SourceReleaseTest::SourceReleaseTest;

  // Moves the shards to `place` and leaves links to them.
  void LinkTo(const fs::path& place) {
    fs::create_directories(place);
    for (const std::string& name : ShardsLeft()) {
      fs::rename(in_ / name, place / name);
      fs::create_symlink(fs::relative(place / name, in_), in_ / name);
    }
  }

  std::set<SourceDeletion::Kept> Kept(const ConversionReport& report) const {
    std::set<SourceDeletion::Kept> kept;
    for (const SourceDeletion& deletion : report.deletions) kept.insert(deletion.kept);
    return kept;
  }
};

// Links to what is in none of the places where files may go: the links go, and the files stay.
class ElsewhereReleaseTest : public LinkedReleaseTest {
 protected:
  void ExpectOnlyLinksGo(const fs::path& place) {
    const auto before = ReadTree(place);
    Conversion planned = Command();
    planned.request.run.dry_run = true;
    const ConversionReport plan = planned.Run();
    const ConversionReport report = Command().Run();
    for (const ConversionReport* each : {&plan, &report}) {
      ASSERT_EQ(each->deletions.size(), 4U);
      EXPECT_THAT(Kept(*each), ElementsAre(SourceDeletion::Kept::kOutside));
      for (const SourceDeletion& deletion : each->deletions) {
        EXPECT_EQ(deletion.shard.parent_path(), fs::canonical(in_));
        EXPECT_EQ(deletion.file.parent_path(), fs::canonical(place));
        EXPECT_EQ(deletion.freed_bytes, 0U);
      }
    }
    EXPECT_EQ(report.freed_source_shards, 4U);
    EXPECT_EQ(report.freed_source_bytes, 0U);
    EXPECT_EQ(ReadTree(place), before);
    EXPECT_TRUE(ShardsLeft().empty());
    EXPECT_EQ(ReadTree(out_), expected_);
  }
};

TEST_F(ElsewhereReleaseTest, FilesOfSomebodyElseStay) {
  LinkTo(dir_ / "shared" / "model");
  ExpectOnlyLinksGo(dir_ / "shared" / "model");
}

// Such as "local-dir" downloads have, which link to the cache.
TEST_F(ElsewhereReleaseTest, BlobsOfARepositoryStayWhereItsSnapshotWasNotNamed) {
  LinkTo(dir_ / "models--org--name" / "blobs");
  ExpectOnlyLinksGo(dir_ / "models--org--name" / "blobs");
}

TEST_F(ElsewhereReleaseTest, ADirectoryThatIsALinkIsRefused) {
  fs::rename(in_, dir_ / "theirs");
  fs::create_directory_symlink("theirs", in_);
  const auto before = ReadTree(dir_ / "theirs");
  for (const bool dry_run : {true, false}) {
    Conversion conversion = Command();
    conversion.request.run.dry_run = dry_run;
    const Error error = testing::ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr((dir_ / "theirs").string()));
  }
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_EQ(ReadTree(dir_ / "theirs"), before);
}

TEST_F(ElsewhereReleaseTest, AFileWithAnotherHardLinkFreesNothing) {
  for (const std::string& name : ShardsLeft()) {
    fs::create_hard_link(in_ / name, dir_ / name);
  }
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_EQ(report.freed_source_bytes, 0U);
  EXPECT_TRUE(fs::exists(dir_ / kTinyShard1));
}

TEST_F(LinkedReleaseTest, FilesBelowTheDirectoryGoUnlessAnotherLinkLeadsThere) {
  LinkTo(in_ / "data");
  const std::uint64_t bytes = fs::file_size(in_ / kTinyShard1);
  fs::create_symlink(fs::path("data") / kTinyShard2, in_ / "again");
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_GE(report.freed_source_bytes, bytes);
  EXPECT_THAT(Kept(report), ElementsAre(SourceDeletion::Kept::kNo, SourceDeletion::Kept::kLinked));
  EXPECT_FALSE(fs::exists(in_ / "data" / kTinyShard1));
  EXPECT_TRUE(fs::exists(in_ / "data" / kTinyShard2));
  EXPECT_TRUE(ShardsLeft().empty());
}

// A hub cache: links of a snapshot to the repository's blobs.
class HubCacheReleaseTest : public LinkedReleaseTest {
 protected:
  HubCacheReleaseTest() : LinkedReleaseTest("hub/models--org--name/snapshots/abc") {}
  void SetUp() override {
    SourceReleaseTest::SetUp();
    LinkTo(blobs_);
  }

  // A link at `link` to the blob of the second shard keeps it, and nothing else.
  void ExpectKeptFor(const fs::path& link) {
    fs::create_directories(link.parent_path());
    fs::create_symlink(blobs_ / kTinyShard2, link);
    const std::string content = testing::ReadFile(blobs_ / kTinyShard2);
    const ConversionReport report = Command().Run();
    EXPECT_TRUE(ShardsLeft().empty());
    EXPECT_EQ(ReadTree(blobs_), (std::map<std::string, std::string>{{kTinyShard2, content}}));
    EXPECT_EQ(testing::ReadFile(link), content);
    std::size_t kept = 0;
    for (const SourceDeletion& deletion : report.deletions) {
      if (deletion.file_goes()) continue;
      ++kept;
      EXPECT_EQ(deletion.other_link, fs::canonical(link.parent_path()) / link.filename());
      EXPECT_EQ(deletion.freed_bytes, 0U);
    }
    EXPECT_EQ(kept, 1U);
    EXPECT_EQ(ReadTree(out_), expected_);
  }

  const fs::path hub_ = dir_ / "hub";
  const fs::path blobs_ = hub_ / "models--org--name" / "blobs";
};

TEST_F(HubCacheReleaseTest, LinkAndBlobGo) {
  std::uint64_t bytes = 0;
  for (const fs::directory_entry& blob : fs::directory_iterator(blobs_)) bytes += blob.file_size();
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_EQ(report.freed_source_bytes, bytes);
  EXPECT_TRUE(ShardsLeft().empty());
  EXPECT_TRUE(fs::is_empty(blobs_));
  EXPECT_EQ(ReadTree(out_), expected_);
}

TEST_F(HubCacheReleaseTest, ABlobThatAnotherSnapshotNeedsStays) {
  ExpectKeptFor(hub_ / "models--org--name" / "snapshots" / "def" / kTinyShard2);
}

TEST_F(HubCacheReleaseTest, ABlobThatAnotherRepositoryNeedsStays) {
  ExpectKeptFor(hub_ / "models--org--other" / "blobs" / "1234");
}

TEST_F(HubCacheReleaseTest, ASnapshotThatComesWhileTheRunGoesOnKeepsItsBlob) {
  WatchedFileSystem watched;
  const fs::path link = hub_ / "models--org--name" / "snapshots" / "def" / kTinyShard2;
  watched.on_renamed = [&](const fs::path& path) {
    if (path != out_ / kTinyShard1) return;
    fs::create_directories(link.parent_path());
    fs::create_symlink(blobs_ / kTinyShard2, link);
  };
  Command().Run(watched);
  EXPECT_TRUE(fs::exists(link));
  EXPECT_FALSE(fs::exists(blobs_ / kTinyShard1));
}

TEST_F(HubCacheReleaseTest, TheSharedStoreBehindABlobStays) {
  const fs::path store = dir_ / "store";
  fs::create_directories(store);
  fs::rename(blobs_ / kTinyShard2, store / "xet");
  fs::create_symlink(store / "xet", blobs_ / kTinyShard2);
  Command().Run();
  EXPECT_TRUE(fs::exists(store / "xet"));
  EXPECT_FALSE(fs::exists(blobs_ / kTinyShard1));
  EXPECT_TRUE(ShardsLeft().empty());
  EXPECT_EQ(ReadTree(out_), expected_);
}

TEST_F(HubCacheReleaseTest, BlobsThatAreALinkStay) {
  fs::rename(blobs_, dir_ / "theirs");
  fs::create_directory_symlink(dir_ / "theirs", blobs_);
  const auto before = ReadTree(dir_ / "theirs");
  Command().Run();
  EXPECT_EQ(ReadTree(dir_ / "theirs"), before);
  EXPECT_TRUE(ShardsLeft().empty());
}

TEST_F(HubCacheReleaseTest, ARepositoryThatIsALinkIsRefused) {
  fs::rename(hub_ / "models--org--name", dir_ / "theirs");
  fs::create_directory_symlink(dir_ / "theirs", hub_ / "models--org--name");
  const auto before = ReadTree(dir_ / "theirs");
  EXPECT_EQ(testing::ErrorOf([&] { Command().Run(); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(ReadTree(dir_ / "theirs"), before);
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(HubCacheReleaseTest, ALinkWhoseBlobIsGoneGoesWithTheNextRun) {
  WatchedFileSystem watched;
  watched.on_remove = [&](const fs::path& path) {
    if (path == in_ / kTinyShard1) throw Error(ErrorCode::kIo, "the power fails");
  };
  EXPECT_EQ(testing::ErrorOf([&] { Command().Run(watched); }).code(), ErrorCode::kIo);
  EXPECT_FALSE(fs::exists(blobs_ / kTinyShard1));
  EXPECT_EQ(ShardsLeft().count(kTinyShard1), 1U);
  Command().Run();
  EXPECT_TRUE(ShardsLeft().empty());
  EXPECT_EQ(ReadTree(out_), expected_);
}

}  // namespace
}  // namespace dsv3::convert

// Which files --delete-source-shards may delete.

#include "convert/job/source_deletion.h"

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/link_way.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "tests/convert/job/source_release_test.h"
#include "tests/support/immutable.h"
#include "tests/support/other_user.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::OtherUser;
using testing::ReadTree;
using testing::SourceReleaseTest;
using testing::WatchedFileSystem;

using SourceDeletionTest = SourceReleaseTest;

TEST_F(SourceDeletionTest, AFileThatMustNotBeDeletedIsFoundBeforeAnythingIsWritten) {
  const auto expect_refused = [&](const char* why) {
    for (const bool dry_run : {true, false}) {
      Conversion conversion = Command();
      conversion.request.run.dry_run = dry_run;
      const Error error = testing::ErrorOf([&] { conversion.Run(); });
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.message(), ::testing::AllOf(HasSubstr(kTinyShard1), HasSubstr(why)));
      EXPECT_FALSE(fs::exists(out_));
    }
  };
  const fs::perms open = fs::perms::all;
  fs::permissions(dir_.path(), open);
  {
    fs::permissions(in_, fs::perms(0555));
    const OtherUser user;
    expect_refused("is not writable");
  }
  fs::permissions(in_, open | fs::perms::sticky_bit);
  {
    const OtherUser user;
    // The owner of the directory may delete.
    if (user.is_other()) expect_refused("has the sticky bit");
  }
  fs::permissions(in_, open);
  EXPECT_EQ(ShardsLeft().size(), 4U);
  EXPECT_EQ(Command().Run().freed_source_shards, 4U);
}

TEST_F(SourceDeletionTest, AnImmutableFileOrDirectoryIsFoundBeforeAnythingIsWritten) {
  for (const fs::path& fixed : {in_ / kTinyShard2, in_}) {
    const testing::Immutable immutable(fixed);
    if (!immutable.is_set()) GTEST_SKIP() << "the user or the file system cannot";
    for (const bool dry_run : {true, false}) {
      Conversion conversion = Command();
      conversion.request.run.dry_run = dry_run;
      const Error error = testing::ErrorOf([&] { conversion.Run(); });
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.message(), HasSubstr("--delete-source-shards cannot delete it"));
      EXPECT_THAT(error.message(), HasSubstr(fixed == in_ ? in_.string() : kTinyShard2));
      EXPECT_FALSE(fs::exists(out_));
    }
  }
  EXPECT_EQ(Command().Run().freed_source_shards, 4U);
}

TEST_F(SourceDeletionTest, AWayHasTheLinksAndTheFile) {
  const fs::path in = fs::canonical(in_);
  const fs::path other = fs::canonical(dir_.path()) / "other";
  fs::create_directories(other);
  fs::create_directory_symlink(in_, dir_ / "linked");
  fs::create_symlink(dir_ / "linked" / kTinyShard1, other / "a");
  fs::create_symlink("a", other / "b");
  EXPECT_THAT(LinkWay(other / "b"), ElementsAre(other / "b", other / "a", in / kTinyShard1));
  EXPECT_THAT(LinkWay(dir_ / "linked" / kTinyShard1), ElementsAre(in / kTinyShard1));
}

// The original of --scales-from has a shard of IN through a link.
TEST_F(SourceDeletionTest, AnOriginalThatLinksToTheSourceIsRefusedBeforeAnythingIsWritten) {
  const std::string shared = "extra.safetensors";
  testing::TinyCheckpoint original = testing::SmallFp8Checkpoint();
  for (const char* name : {"a.weight", "c.weight", "d.weight"}) original.DropContaining(name);
  original.Add(shared, "extra.weight", formats::Dtype::kBF16, {4, 4});
  original.Write(dir_ / "original");
  const fs::path bf16 = dir_ / "bf16";
  Conversion(dir_ / "original", bf16).Run();
  fs::remove(dir_ / "original" / shared);
  fs::create_symlink(bf16 / shared, dir_ / "original" / shared);
  const auto before = ReadTree(bf16);
  Bf16ToFp8Options options;
  options.scales_from = dir_ / "original";
  for (const bool dry_run : {true, false}) {
    Conversion conversion(bf16, out_, Bf16ToFp8Conversion(options));
    conversion.request.run.delete_source_shards = true;
    conversion.request.run.dry_run = dry_run;
    const Error error = testing::ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.message();
    EXPECT_THAT(error.message(), HasSubstr(shared));
  }
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_EQ(ReadTree(bf16), before);
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

// Somebody may have put it together of links alone.
TEST_F(HubCacheReleaseTest, ABlobThatARepositoryWithoutBlobsNeedsStays) {
  ExpectKeptFor(hub_ / "models--org--third" / "snapshots" / "def" / kTinyShard2);
}

// A snapshot may link to the next one's links in place of the blobs.
TEST_F(HubCacheReleaseTest, ALinkThatAnotherSnapshotPassesStaysWithItsBlob) {
  const fs::path other = hub_ / "models--org--name" / "snapshots" / "def";
  fs::create_directories(other);
  fs::create_symlink(fs::path("..") / "abc" / kTinyShard2, other / "step");
  fs::create_symlink("step", other / kTinyShard2);
  const std::string content = testing::ReadFile(other / kTinyShard2);
  Conversion planned = Command();
  planned.request.run.dry_run = true;
  for (const ConversionReport& report : {planned.Run(), Command().Run()}) {
    std::size_t passed = 0;
    for (const SourceDeletion& deletion : report.deletions) {
      if (deletion.kept != SourceDeletion::Kept::kPassed) continue;
      ++passed;
      EXPECT_FALSE(deletion.shard_goes());
      EXPECT_EQ(deletion.other_link.parent_path(), fs::canonical(other));
      EXPECT_EQ(deletion.freed_bytes, 0U);
    }
    EXPECT_EQ(passed, 1U);
  }
  EXPECT_EQ(testing::ReadFile(other / kTinyShard2), content);
  EXPECT_THAT(ShardsLeft(), ElementsAre(kTinyShard2));
  EXPECT_EQ(ReadTree(out_), expected_);
}

TEST_F(HubCacheReleaseTest, ALinkToTheSnapshotOrItsRepositoryIsRefused) {
  const auto before = ReadTree(hub_);
  for (const auto& [link, target] :
       {std::pair(hub_ / "models--org--name" / "snapshots" / "main", fs::path("abc")),
        std::pair(hub_ / "models--org--alias", fs::path("models--org--name"))}) {
    fs::create_directory_symlink(target, link);
    const Error error = testing::ErrorOf([&] { Command().Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr(link.filename().string()));
    EXPECT_FALSE(fs::exists(out_));
    fs::remove(link);
    EXPECT_EQ(ReadTree(hub_), before);
  }
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

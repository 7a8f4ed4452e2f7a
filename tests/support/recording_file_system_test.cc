#include "tests/support/recording_file_system.h"

#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

using formats::PosixFileSystem;
using ::testing::ElementsAre;

using Tree = std::map<std::string, std::string>;

// A recorded directory, and what crashes leave of it.
class RecordingFileSystemTest : public ::testing::Test {
 protected:
  RecordingFileSystemTest() { WriteFile(dir_ / "root/old", "old"); }

  RecordingFileSystem& files() {
    if (files_ == nullptr) {
      files_ = std::make_unique<RecordingFileSystem>(PosixFileSystem(), root());
    }
    return *files_;
  }
  std::filesystem::path root() const { return dir_ / "root"; }

  void Write(const std::filesystem::path& path, std::string_view content, bool sync) {
    const auto file = files().Create(path, 0);
    file->WriteAt(0, AsBytes(content));
    if (sync) file->Sync();
  }
  Tree After(std::size_t count, Crash crash) {
    const std::filesystem::path into = dir_ / ("replay" + std::to_string(replays_++));
    files().Replay(count, crash, into);
    return ReadTree(into);
  }
  Tree AfterAll(Crash crash) { return After(files().operations().size(), crash); }

 private:
  TempDir dir_;
  std::unique_ptr<RecordingFileSystem> files_;
  int replays_ = 0;
};

TEST_F(RecordingFileSystemTest, PassesEverythingOnAndRecordsIt) {
  files().CreateDirectory(root() / "d");
  {
    const auto file = files().Create(root() / "d/a.partial", 10);
    file->WriteAt(0, AsBytes("0123456789"));
    file->Truncate(5);
    file->Sync();
  }
  files().Rename(root() / "d/a.partial", root() / "d/a");
  files().SyncDirectory(root() / "d");
  files().OpenExisting(root() / "d/a")->WriteAt(5, AsBytes("!"));
  EXPECT_EQ(ReadTree(root()), (Tree{{"old", "old"}, {"d/", ""}, {"d/a", "01234!"}}));
  files().Remove(root() / "d/a");
  files().RemoveDirectory(root() / "d/");
  files().SyncDirectory(root());
  EXPECT_EQ(ReadTree(root()), (Tree{{"old", "old"}}));

  std::vector<std::string> record;
  for (const Operation& operation : files().operations()) record.push_back(ToString(operation));
  EXPECT_THAT(record, ElementsAre("create directory d", "create d/a.partial",
                                  "write d/a.partial [0, 10)", "truncate d/a.partial to 5 bytes",
                                  "sync d/a.partial", "rename d/a.partial to d/a",
                                  "sync directory d", "open d/a", "write d/a [5, 6)", "remove d/a",
                                  "remove directory d", "sync directory ."));
}

TEST_F(RecordingFileSystemTest, KillingTheProcessLosesNothing) {
  Write(root() / "a", "aaa", false);
  EXPECT_EQ(After(0, Crash::kKeepAll), (Tree{{"old", "old"}}));
  EXPECT_EQ(After(1, Crash::kKeepAll), (Tree{{"old", "old"}, {"a", ""}}));
  EXPECT_EQ(After(2, Crash::kKeepAll), (Tree{{"old", "old"}, {"a", "aaa"}}));
}

TEST_F(RecordingFileSystemTest, EveryPrefixWithoutACrashIsWhatWasOnDisk) {
  const auto check = [&] { EXPECT_EQ(AfterAll(Crash::kKeepAll), ReadTree(root())); };
  check();
  files().CreateDirectory(root() / "d");
  check();
  files().CreateDirectory(root() / "d");
  check();
  Write(root() / "d/x", "xxxx", true);
  check();
  Write(root() / "old", "n", false);
  check();
  const auto held = files().OpenExisting(root() / "d/x");
  files().Rename(root() / "d/x", root() / "old");
  held->WriteAt(6, AsBytes("yy"));
  check();
  held->Truncate(7);
  check();
  files().Rename(root() / "d", root() / "e");
  check();
  files().Remove(root() / "old");
  files().RemoveDirectory(root() / "e");
  check();
}

TEST_F(RecordingFileSystemTest, APowerCutLosesDataWithoutFsync) {
  Write(root() / "a", "aaa", false);
  files().SyncDirectory(root());
  EXPECT_EQ(AfterAll(Crash::kLoseUnsynced), (Tree{{"old", "old"}, {"a", ""}}));
  EXPECT_EQ(AfterAll(Crash::kKeepDataLoseNames), (Tree{{"old", "old"}, {"a", "aaa"}}));
}

TEST_F(RecordingFileSystemTest, APowerCutLosesNamesWithoutDirectoryFsync) {
  Write(root() / "a", "aaa", true);
  files().Remove(root() / "old");
  EXPECT_EQ(AfterAll(Crash::kLoseUnsynced), (Tree{{"old", "old"}}));
  EXPECT_EQ(AfterAll(Crash::kLoseDataKeepNames), (Tree{{"a", "aaa"}}));
  files().SyncDirectory(root());
  EXPECT_EQ(AfterAll(Crash::kLoseUnsynced), (Tree{{"a", "aaa"}}));
}

TEST_F(RecordingFileSystemTest, ARenameWithoutFsyncShowsAnEmptyFile) {
  Write(root() / "old.partial", "new", false);
  files().Rename(root() / "old.partial", root() / "old");
  EXPECT_EQ(AfterAll(Crash::kLoseDataKeepNames), (Tree{{"old", ""}}));
  EXPECT_EQ(AfterAll(Crash::kZeroDataKeepNames), (Tree{{"old", std::string(3, '\0')}}));
  EXPECT_EQ(AfterAll(Crash::kLoseUnsynced), (Tree{{"old", "old"}}));
}

TEST_F(RecordingFileSystemTest, AFullCommitSurvivesEveryCrash) {
  Write(root() / "old.partial", "new", true);
  files().Rename(root() / "old.partial", root() / "old");
  files().SyncDirectory(root());
  for (const Crash crash : kEveryCrash) {
    EXPECT_EQ(AfterAll(crash), (Tree{{"old", "new"}})) << ToString(crash);
  }
}

TEST_F(RecordingFileSystemTest, ZeroesWhatWasAppendedSinceTheLastSync) {
  const auto journal = files().Create(root() / "journal", 0);
  journal->WriteAt(0, AsBytes("one"));
  journal->Sync();
  journal->WriteAt(3, AsBytes("two"));
  EXPECT_EQ(AfterAll(Crash::kZeroDataKeepNames).at("journal"),
            std::string("one") + std::string(3, '\0'));
  EXPECT_EQ(AfterAll(Crash::kLoseDataKeepNames).at("journal"), "one");
}

TEST_F(RecordingFileSystemTest, AnUnsyncedDirectoryTakesItsFilesWithIt) {
  files().CreateDirectory(root() / "d");
  Write(root() / "d/a", "aaa", true);
  files().SyncDirectory(root() / "d");
  EXPECT_EQ(AfterAll(Crash::kLoseUnsynced), (Tree{{"old", "old"}}));
  files().SyncDirectory(root());
  EXPECT_EQ(AfterAll(Crash::kLoseUnsynced), (Tree{{"old", "old"}, {"d/", ""}, {"d/a", "aaa"}}));
}

TEST_F(RecordingFileSystemTest, RecordsNeitherFailuresNorOtherDirectories) {
  EXPECT_THROW(files().Remove(root() / "none"), Error);
  EXPECT_THROW(files().Create(root() / "no/such/directory", 0), Error);
  const TempDir elsewhere;
  Write(elsewhere / "file", "x", true);
  files().SyncDirectory(root() / "..");
  EXPECT_TRUE(files().operations().empty());
  EXPECT_EQ(ReadFile(elsewhere / "file"), "x");
}

}  // namespace
}  // namespace dsv3::testing

#include "tests/support/faulty_file_system.h"

#include <cerrno>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

using formats::PosixFileSystem;
using ::testing::HasSubstr;

// Eight changes, one of each kind.
void ChangeALittle(formats::FileSystem& files, const std::filesystem::path& dir) {
  files.CreateDirectory(dir / "d");                // 0
  const auto file = files.Create(dir / "d/a", 0);  // 1
  file->WriteAt(0, AsBytes("0123456789"));         // 2
  file->Truncate(8);                               // 3
  file->Sync();                                    // 4
  files.Rename(dir / "d/a", dir / "d/b");          // 5
  files.SyncDirectory(dir / "d");                  // 6
  files.OpenExisting(dir / "d/b");
  files.Remove(dir / "d/b");         // 7
  files.RemoveDirectory(dir / "d");  // 8
}

TEST(FaultyFileSystemTest, CountsChangesAndPassesThemOn) {
  const TempDir dir;
  FaultyFileSystem files(PosixFileSystem(), 100, ENOSPC);
  ChangeALittle(files, dir.path());
  EXPECT_EQ(files.changes(), 9u);
  EXPECT_TRUE(ReadTree(dir.path()).empty());
}

TEST(FaultyFileSystemTest, FailsAtEachChange) {
  for (std::size_t fail_at = 0; fail_at < 9; ++fail_at) {
    const TempDir dir;
    FaultyFileSystem files(PosixFileSystem(), fail_at, EIO);
    try {
      ChangeALittle(files, dir.path());
      ADD_FAILURE() << fail_at;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.message(), HasSubstr("Input/output error"));
    }
    EXPECT_EQ(files.changes(), fail_at + 1);
    // What came before took place, and the failed change did not, except for half of a write.
    const auto tree = ReadTree(dir.path());
    EXPECT_EQ(tree.count("d/"), fail_at > 0 ? 1u : 0u) << fail_at;
    EXPECT_EQ(tree.count("d/a"), fail_at >= 2 && fail_at <= 5 ? 1u : 0u) << fail_at;
    EXPECT_EQ(tree.count("d/b"), fail_at == 6 || fail_at == 7 ? 1u : 0u) << fail_at;
    if (fail_at == 2) {
      EXPECT_EQ(tree.at("d/a"), "01234");
    }
    if (fail_at == 3) {
      EXPECT_EQ(tree.at("d/a"), "0123456789");
    }
    if (fail_at == 4) {
      EXPECT_EQ(tree.at("d/a"), "01234567");
    }
  }
}

TEST(FaultyFileSystemTest, FailsAtEachChangeOfAScratchFile) {
  const TempDir dir;
  for (std::size_t fail_at = 0; fail_at < 3; ++fail_at) {
    FaultyFileSystem files(PosixFileSystem(), fail_at, ENOSPC);
    std::unique_ptr<formats::ScratchFile> file;
    const auto change = [&] {
      file = files.CreateScratch(dir.path());
      file->Append(AsBytes("0123456789"));
      file->Clear();
    };
    EXPECT_THROW(change(), Error) << fail_at;
    EXPECT_EQ(files.changes(), fail_at + 1);
    EXPECT_EQ(file ? file->bytes() : 0, fail_at == 1 ? 5U : fail_at == 2 ? 10U : 0U);
  }
}

TEST(FaultyFileSystemTest, MayRecoverOrStayBroken) {
  const TempDir dir;
  FaultyFileSystem once(PosixFileSystem(), 0, ENOSPC);
  EXPECT_THROW(once.CreateDirectory(dir / "a"), Error);
  once.CreateDirectory(dir / "a");
  FaultyFileSystem broken(PosixFileSystem(), 1, EROFS, FaultyFileSystem::Failing::kFromThenOn);
  broken.CreateDirectory(dir / "b");
  EXPECT_THROW(broken.CreateDirectory(dir / "c"), Error);
  EXPECT_THROW(broken.Remove(dir / "c"), Error);
}

}  // namespace
}  // namespace dsv3::testing

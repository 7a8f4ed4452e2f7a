#include "formats/io/new_directories.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::TempDir;
using testing::WriteFile;

TEST(NewDirectoriesTest, AreGoneWhereNoFileCame) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "there");
  {
    const NewDirectories made(PosixFileSystem(), dir / "there/a/b");
    EXPECT_TRUE(std::filesystem::is_directory(dir / "there/a/b"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir / "there"));
  { const NewDirectories made(PosixFileSystem(), dir / "there"); }
  EXPECT_TRUE(std::filesystem::exists(dir / "there")) << "it was there before";
}

TEST(NewDirectoriesTest, StayWhereAFileCame) {
  const TempDir dir;
  {
    const NewDirectories made(PosixFileSystem(), dir / "a/b");
    WriteFile(dir / "a/file", "");
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "a/b"));
  EXPECT_TRUE(std::filesystem::exists(dir / "a/file"));
}

TEST(NewDirectoriesTest, CannotLieInAFile) {
  const TempDir dir;
  WriteFile(dir / "file", "");
  EXPECT_THROW(NewDirectories(PosixFileSystem(), dir / "file/sub"), Error);
}

}  // namespace
}  // namespace dsv3::formats

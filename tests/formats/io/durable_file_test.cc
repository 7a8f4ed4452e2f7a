#include "formats/io/durable_file.h"

#include <cerrno>
#include <filesystem>

#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::FaultyFileSystem;
using testing::ReadFile;
using testing::TempDir;
using testing::WriteFile;

TEST(WriteFileDurablyTest, MakesAndReplacesTheFile) {
  const TempDir dir;
  WriteFileDurably(PosixFileSystem(), dir / "file", "first");
  EXPECT_EQ(ReadFile(dir / "file"), "first");
  WriteFileDurably(PosixFileSystem(), dir / "file", "");
  EXPECT_EQ(ReadFile(dir / "file"), "");
  EXPECT_FALSE(std::filesystem::exists(dir / "file.partial"));
}

TEST(WriteFileDurablyTest, LeavesTheOldFileWhereItFails) {
  // Create, write, fsync and rename; the last change is the fsync of the directory.
  for (std::size_t fail_at = 0; fail_at < 5; ++fail_at) {
    const TempDir dir;
    WriteFile(dir / "file", "old");
    FaultyFileSystem fs(PosixFileSystem(), fail_at, ENOSPC);
    EXPECT_THROW(WriteFileDurably(fs, dir / "file", "new content"), Error) << fail_at;
    EXPECT_EQ(ReadFile(dir / "file"), fail_at < 4 ? "old" : "new content") << fail_at;
    EXPECT_FALSE(std::filesystem::exists(dir / "file.partial")) << fail_at;
  }
  const TempDir dir;
  FaultyFileSystem fs(PosixFileSystem(), 5, ENOSPC);
  WriteFileDurably(fs, dir / "file", "new content");
  EXPECT_EQ(fs.changes(), 5U);
}

TEST(RequireWritableTest, SaysBeforehandWhetherAFileCanBeMadeAndLeavesNothing) {
  const TempDir dir;
  WriteFile(dir / "file", "old");
  RequireWritable(PosixFileSystem(), dir / "file");
  RequireWritable(PosixFileSystem(), dir / "new");
  EXPECT_EQ(ReadFile(dir / "file"), "old");
  for (const char* name : {"new", "new.partial", "file.partial"}) {
    EXPECT_FALSE(std::filesystem::exists(dir / name)) << name;
  }
  std::filesystem::create_directory(dir / "directory");
  const auto code_of = [&](FileSystem& fs, const std::filesystem::path& path) {
    try {
      RequireWritable(fs, path);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code_of(PosixFileSystem(), dir / "directory"), ErrorCode::kUsage);
  EXPECT_EQ(code_of(PosixFileSystem(), dir / "none/file"), ErrorCode::kIo);
  FaultyFileSystem fs(PosixFileSystem(), 0, EROFS);
  EXPECT_EQ(code_of(fs, dir / "file"), ErrorCode::kIo);
}

}  // namespace
}  // namespace dsv3::formats

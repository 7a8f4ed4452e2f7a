#include "formats/io/durable_file.h"

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "formats/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/immutable.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::FaultyFileSystem;
using testing::Immutable;
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
  EXPECT_EQ(code_of(PosixFileSystem(), dir / "none/file"), ErrorCode::kUsage);
  EXPECT_EQ(code_of(PosixFileSystem(), dir / "file/new"), ErrorCode::kUsage);
  FaultyFileSystem fs(PosixFileSystem(), 0, EROFS);
  EXPECT_EQ(code_of(fs, dir / "file"), ErrorCode::kIo);
  // A rename would put a file in their place.
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("pipe", dir / "link");
  for (const char* name : {"pipe", "link"}) {
    EXPECT_EQ(code_of(PosixFileSystem(), dir / name), ErrorCode::kUsage) << name;
  }
  EXPECT_EQ(code_of(PosixFileSystem(), "/dev/null"), ErrorCode::kUsage);
}

TEST(RequireWritableTest, FindsThatNotOneBlockCanBeWritten) {
  const TempDir dir;
  struct rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit none = {0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  EXPECT_THROW(RequireWritable(PosixFileSystem(), dir / "file"), Error);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(RequireWritableTest, FindsFilesAndDirectoriesThatAreImmutable) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "sub");
  for (const char* name : {"file", "sub/file"}) WriteFile(dir / name, "old");
  for (const char* fixed : {"file", "sub"}) {
    const Immutable immutable(dir / fixed);
    if (!immutable.is_set()) GTEST_SKIP() << "the user or the file system cannot";
    const auto file = std::string_view(fixed) == "sub" ? dir / "sub/file" : dir / "file";
    try {
      RequireWritable(PosixFileSystem(), file);
      ADD_FAILURE() << fixed;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      if (file == dir / fixed) {
        EXPECT_NE(error.message().find("cannot replace"), std::string::npos) << error.message();
      }
    }
    EXPECT_FALSE(std::filesystem::exists(file.string() + ".partial"));
  }
}

}  // namespace
}  // namespace dsv3::formats

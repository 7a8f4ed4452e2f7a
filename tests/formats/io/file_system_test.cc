#include "formats/io/file_system.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/posix_output_file.h"
#include "formats/message_text.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using ::testing::AllOf;
using testing::AsBytes;
using ::testing::HasSubstr;
using testing::RandomBytes;
using testing::ReadFile;
using testing::TempDir;
using testing::WriteFile;

template <typename Call>
std::string IoErrorOf(Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo) << error.message();
    EXPECT_FALSE(error.place().file.empty()) << error.message();
    return error.message();
  }
  ADD_FAILURE() << "no error";
  return "";
}

AlignedBuffer Aligned(const std::string& text) {
  AlignedBuffer buffer(text.size());
  std::memcpy(buffer.data(), text.data(), text.size());
  return buffer;
}

ino_t InodeOf(const std::filesystem::path& path) {
  struct stat status {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_ino;
}

TEST(PosixFileSystemTest, SharesAFileUnderAFurtherName) {
  const TempDir dir;
  WriteFile(dir / "from", "bytes");
  WriteFile(dir / "to", "what was there");
  const auto shared = PosixFileSystem().Share(dir / "from", dir / "to", Sharing::kInode);
  ASSERT_NE(shared, nullptr);
  shared->Sync();
  EXPECT_EQ(InodeOf(dir / "to"), InodeOf(dir / "from"));
  EXPECT_EQ(ReadFile(dir / "to"), "bytes");
  EXPECT_THROW(shared->WriteAt(0, AsBytes("x")), Error);
  EXPECT_THROW(shared->Truncate(0), Error);
}

TEST(PosixFileSystemTest, SharesNothingAcrossFileSystems) {
  const TempDir dir;
  const TempDir memory(testing::MemoryDirectory());
  WriteFile(dir / "from", "bytes");
  struct stat here {};
  struct stat there {};
  ASSERT_EQ(::stat(dir.path().c_str(), &here), 0);
  ASSERT_EQ(::stat(memory.path().c_str(), &there), 0);
  if (here.st_dev == there.st_dev) GTEST_SKIP() << "there is only one file system";
  for (const Sharing sharing : {Sharing::kInode, Sharing::kBlocks}) {
    EXPECT_EQ(PosixFileSystem().Share(dir / "from", memory / "to", sharing), nullptr);
    EXPECT_FALSE(std::filesystem::exists(memory / "to"));
  }
}

// Whether there are reflinks here or not: the bytes are right, and changing the copy leaves the
// original alone.
TEST(PosixFileSystemTest, SharesBlocksOnlyWhereFilesStayApart) {
  const TempDir dir;
  WriteFile(dir / "from", "bytes");
  if (PosixFileSystem().Share(dir / "from", dir / "to", Sharing::kBlocks) == nullptr) {
    EXPECT_FALSE(std::filesystem::exists(dir / "to"));
    return;
  }
  EXPECT_EQ(ReadFile(dir / "to"), "bytes");
  WriteFile(dir / "to", "other");
  EXPECT_EQ(ReadFile(dir / "from"), "bytes");
}

TEST(PosixFileSystemTest, CreatesAFileWithoutChangingOneOfAnotherName) {
  const TempDir dir;
  WriteFile(dir / "source", "bytes");
  std::filesystem::create_hard_link(dir / "source", dir / "file");
  PosixFileSystem().Create(dir / "file", 0)->WriteAt(0, AsBytes("new"));
  EXPECT_EQ(ReadFile(dir / "file"), "new");
  EXPECT_EQ(ReadFile(dir / "source"), "bytes");
}

TEST(PosixFileSystemTest, RenamesOverAnotherNameOfTheSameFile) {
  const TempDir dir;
  WriteFile(dir / "from", "bytes");
  std::filesystem::create_hard_link(dir / "from", dir / "to");
  PosixFileSystem().Rename(dir / "from", dir / "to");
  EXPECT_FALSE(std::filesystem::exists(dir / "from"));
  EXPECT_EQ(ReadFile(dir / "to"), "bytes");
}

TEST(PosixFileSystemTest, WritesASmallFile) {
  const TempDir dir;
  const auto file = PosixFileSystem().Create(dir / "file", 0);
  file->WriteAt(0, AsBytes("hello "));
  file->WriteAt(6, AsBytes("world"));
  file->WriteAt(11, {});
  file->Sync();
  EXPECT_EQ(ReadFile(dir / "file"), "hello world");
}

TEST(PosixFileSystemTest, EmptiesWhatWasThere) {
  const TempDir dir;
  WriteFile(dir / "file", "something longer");
  for (const std::uint64_t expected_bytes : {0u, 2u}) {
    const auto file = PosixFileSystem().Create(dir / "file", expected_bytes);
    file->WriteAt(0, AsBytes("ab"));
    EXPECT_EQ(ReadFile(dir / "file"), "ab");
  }
}

TEST(PosixFileSystemTest, StreamsBlocksAndAnUnalignedEnd) {
  const TempDir dir;
  const std::string text = RandomBytes(3 * (1 << 20) + 1234, 1);
  const AlignedBuffer data = Aligned(text);
  const auto file = PosixFileSystem().Create(dir / "file", text.size());
  for (std::size_t offset = 0; offset < text.size(); offset += 1 << 20) {
    const std::size_t count = std::min<std::size_t>(1 << 20, text.size() - offset);
    file->WriteAt(offset, data.span().subspan(offset, count));
  }
  file->Sync();
  EXPECT_TRUE(ReadFile(dir / "file") == text);
}

TEST(PosixFileSystemTest, StreamsFromAnyAddressToAnyOffset) {
  const TempDir dir;
  const std::string text = RandomBytes(50'000, 2);
  const AlignedBuffer data = Aligned(text);
  const auto file = PosixFileSystem().Create(dir / "file", text.size());
  // Last pieces first: header blocks may come after the data.
  for (const auto& range : std::vector<std::pair<std::size_t, std::size_t>>{
           {40'960, 50'000}, {5000, 40'960}, {4096, 5000}, {100, 4096}, {0, 100}}) {
    file->WriteAt(range.first, data.span().subspan(range.first, range.second - range.first));
  }
  file->Sync();
  EXPECT_TRUE(ReadFile(dir / "file") == text);
}

TEST(PosixFileSystemTest, CutsWhatDirectWritesPadded) {
  const TempDir dir;
  const std::string text = RandomBytes(8192, 3);
  const auto file = PosixFileSystem().Create(dir / "file", 5000);
  file->WriteAt(0, Aligned(text).span());
  file->Truncate(5000);
  file->Sync();
  EXPECT_EQ(ReadFile(dir / "file"), text.substr(0, 5000));
}

TEST(PosixFileSystemTest, WritesDisjointRangesSideBySide) {
  const TempDir dir;
  const std::string text = RandomBytes((1 << 20) + 77, 4);
  const AlignedBuffer data = Aligned(text);
  const auto file = PosixFileSystem().Create(dir / "file", text.size());
  constexpr std::size_t kThreads = 8;
  constexpr std::size_t kPart = (1 << 20) / kThreads;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      const std::size_t end = i + 1 == kThreads ? text.size() : (i + 1) * kPart;
      file->WriteAt(i * kPart, data.span().subspan(i * kPart, end - i * kPart));
    });
  }
  for (std::thread& thread : threads) thread.join();
  file->Sync();
  EXPECT_TRUE(ReadFile(dir / "file") == text);
}

TEST(PosixFileSystemTest, ContinuesAnExistingFile) {
  const TempDir dir;
  WriteFile(dir / "journal", "one\n");
  const auto file = PosixFileSystem().OpenExisting(dir / "journal");
  file->WriteAt(4, AsBytes("two\n"));
  file->Sync();
  EXPECT_EQ(ReadFile(dir / "journal"), "one\ntwo\n");
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().OpenExisting(dir / "none"); }),
              AllOf(HasSubstr("cannot write"), HasSubstr("No such file")));
}

TEST(PosixFileSystemTest, NeverWritesThroughASymbolicLink) {
  const TempDir dir;
  WriteFile(dir / "precious", "keep");
  std::filesystem::create_symlink("precious", dir / "link");
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().Create(dir / "link", 0); }),
              AllOf(HasSubstr("cannot create"), HasSubstr("symbolic link"), HasSubstr("remove")));
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().OpenExisting(dir / "link"); }),
              HasSubstr("symbolic link"));
  EXPECT_EQ(ReadFile(dir / "precious"), "keep");
}

TEST(PosixFileSystemTest, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "directory");
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0666), 0);
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().Create(dir / "directory", 0); }),
              HasSubstr("cannot create"));
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().Create(dir / "fifo", 0); }),
              HasSubstr("cannot create"));
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().OpenExisting("/dev/null"); }),
              HasSubstr("not a regular file"));
}

TEST(PosixFileSystemTest, SaysHowMuchSpaceIsMissingAndLeavesNothing) {
  const TempDir dir;
  // A disk of its own: filling one up takes its space from whatever else runs on it.
  if (::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "mounting is not allowed here";
  }
  const std::uint64_t too_much = std::uint64_t{2} << 20;
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().Create(dir / "file", too_much); }),
              AllOf(HasSubstr("cannot reserve " + ExactBytes(too_much) + " for "),
                    HasSubstr("No space left on device"), HasSubstr("free some space")));
  EXPECT_FALSE(std::filesystem::exists(dir / "file"));
  ::umount2(dir.path().c_str(), MNT_DETACH);
}

TEST(PosixFileSystemTest, ReportsAFailingWrite) {
  const TempDir dir;
  const auto file = PosixFileSystem().Create(dir / "file", 0);
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small = {.rlim_cur = 1000, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  // The first 1000 bytes are a short write; the rest fails.
  const std::string message = IoErrorOf([&] { file->WriteAt(0, AsBytes(std::string(2000, 'x'))); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, AllOf(HasSubstr("cannot write " + (dir / "file").string()),
                             HasSubstr("File too large")));
  EXPECT_EQ(ReadFile(dir / "file").size(), 1000u);
}

TEST(PosixFileSystemTest, RenamesOverAnExistingFile) {
  const TempDir dir;
  WriteFile(dir / "new", "new");
  WriteFile(dir / "old", "old");
  PosixFileSystem().Rename(dir / "new", dir / "old");
  EXPECT_EQ(ReadFile(dir / "old"), "new");
  EXPECT_FALSE(std::filesystem::exists(dir / "new"));
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().Rename(dir / "none", dir / "old"); }),
              AllOf(HasSubstr("cannot rename"), HasSubstr("none"), HasSubstr("No such file")));
}

TEST(PosixFileSystemTest, MakesAndRemovesDirectories) {
  const TempDir dir;
  PosixFileSystem().CreateDirectory(dir / "a");
  PosixFileSystem().CreateDirectory(dir / "a");  // there already
  PosixFileSystem().SyncDirectory(dir / "a");
  WriteFile(dir / "a/file", "x");
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().RemoveDirectory(dir / "a"); }),
              HasSubstr("not empty"));
  PosixFileSystem().Remove(dir / "a/file");
  PosixFileSystem().RemoveDirectory(dir / "a");
  EXPECT_FALSE(std::filesystem::exists(dir / "a"));

  WriteFile(dir / "file", "x");
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().CreateDirectory(dir / "file"); }),
              HasSubstr("cannot create directory"));
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().CreateDirectory(dir / "x/y"); }),
              HasSubstr("No such file"));
  std::filesystem::create_symlink("gone", dir / "dead");
  for (const char* name : {"dead", "dead/x"}) {
    EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().CreateDirectory(dir / name); }),
                HasSubstr("a symlink to gone, which does not exist; repair the link"));
  }
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().Remove(dir / "none"); }),
              HasSubstr("cannot remove"));
  EXPECT_THAT(IoErrorOf([&] { PosixFileSystem().SyncDirectory(dir / "none"); }),
              HasSubstr("No such file"));
}

TEST(CreateDirectoriesTest, FailsWhereAPathCannotBeLookedFor) {
  const TempDir dir;
  const std::filesystem::path path = dir / std::string(300, 'x') / "last";
  EXPECT_THAT(IoErrorOf([&] { CreateDirectories(PosixFileSystem(), path); }),
              HasSubstr("cannot examine"));
}

// A file system without O_DIRECT has no direct descriptor.
TEST(PosixOutputFileTest, StreamsThroughThePageCacheWhereItMust) {
  const TempDir dir;
  WriteFile(dir / "file", "");
  const std::string text = RandomBytes((40 << 20) + 5, 5);  // more than may be under way
  const AlignedBuffer data = Aligned(text);
  PosixOutputFile file((dir / "file").string(),
                       UniqueFd(::open((dir / "file").c_str(), O_WRONLY | O_CLOEXEC)), UniqueFd(),
                       true);
  for (std::size_t offset = 0; offset < text.size(); offset += 4 << 20) {
    file.WriteAt(offset,
                 data.span().subspan(offset, std::min<std::size_t>(4 << 20, text.size() - offset)));
  }
  file.Sync();
  EXPECT_TRUE(ReadFile(dir / "file") == text);
}

// Some file systems take the flag and then refuse the write with EINVAL. So does this file of
// /proc, for any content that is not a number.
TEST(PosixOutputFileTest, FallsBackWhenDirectWritesAreRefused) {
  UniqueFd refusing(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (refusing.get() < 0) GTEST_SKIP() << "no /proc";
  const TempDir dir;
  WriteFile(dir / "file", "");
  const std::string text = RandomBytes(100'000, 6);
  const AlignedBuffer data = Aligned(text);
  PosixOutputFile file((dir / "file").string(),
                       UniqueFd(::open((dir / "file").c_str(), O_WRONLY | O_CLOEXEC)),
                       std::move(refusing), true);
  file.WriteAt(0, data.span().first(8192));
  file.WriteAt(8192, data.span().subspan(8192));
  EXPECT_TRUE(ReadFile(dir / "file") == text);
}

// As on mountpoint-s3 any rename is; here it is one that no file system can do.
TEST(PosixFileSystemTest, ARenameThatCannotBeDoneSaysWhatToDo) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "a");
  try {
    PosixFileSystem().Rename(dir / "a", dir / "a/b");
    ADD_FAILURE() << "renamed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.message(), ::testing::HasSubstr("cannot rename"));
    EXPECT_THAT(error.message(), ::testing::HasSubstr("write to a local disk or to another mount"));
  }
}

TEST(FreeDiskBytesTest, AsksTheNearestDirectoryThatExists) {
  const TempDir dir;
  EXPECT_GT(FreeDiskBytes(dir.path()), 0u);
  EXPECT_GT(FreeDiskBytes(dir / "not/yet/there"), 0u);
  EXPECT_GT(FreeDiskBytes("relative/not/there"), 0u);
  EXPECT_GT(FreeDiskBytes(""), 0u);
}

}  // namespace
}  // namespace dsv3::formats

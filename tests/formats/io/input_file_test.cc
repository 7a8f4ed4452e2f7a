#include "formats/io/input_file.h"

#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using ::testing::AllOf;
using testing::AsString;
using ::testing::HasSubstr;
using testing::RandomBytes;
using testing::TempDir;
using testing::WriteFile;

constexpr DirectIo kWays[] = {DirectIo::kWherePossible, DirectIo::kNever};

template <typename Call>
Error ErrorOf(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorCode::kInternal, "no error");
}

Error OpenErrorOf(const std::filesystem::path& path) {
  return ErrorOf([&] { InputFile file(path, "the-name"); });
}

std::string Stream(const InputFile& file, std::uint64_t offset, std::size_t length) {
  const AlignedBuffer scratch(InputFile::ScratchBytes(length));
  return AsString(file.ReadStreaming(offset, length, scratch.span()));
}

// Writes a file and takes it out of the page cache, as far as the file system does that.
void WriteColdFile(const std::filesystem::path& path, std::string_view content) {
  WriteFile(path, content);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(::fsync(fd), 0);
  EXPECT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
  ::close(fd);
}

TEST(InputFileTest, TellsSizeTimeAndName) {
  const TempDir dir;
  WriteFile(dir / "file", "hello");
  const timespec times[2] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1'700'000'000, .tv_nsec = 5}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (dir / "file").c_str(), times, 0), 0);
  const InputFile file(dir / "file", "the-name");
  EXPECT_EQ(file.bytes(), 5u);
  EXPECT_EQ(file.mtime_ns(), 1'700'000'000'000'000'005);
  EXPECT_EQ(file.name(), "the-name");
}

TEST(InputFileTest, ReadsAnyRange) {
  const TempDir dir;
  const std::string text = RandomBytes(20'000, 1);
  for (const DirectIo way : kWays) {
    WriteColdFile(dir / "file", text);
    const InputFile file(dir / "file", "file", way);
    const int fd = ::open((dir / "file").c_str(), O_RDONLY | O_CLOEXEC);
    // Around block borders, across several, at both ends, and nothing at all.
    for (const std::size_t begin : {0u, 1u, 4095u, 4096u, 4097u, 12'000u, 19'999u, 20'000u}) {
      for (const std::size_t end : {0u, 1u, 4096u, 8192u, 8193u, 16'384u, 19'999u, 20'000u}) {
        if (end < begin) continue;
        const std::string expected = text.substr(begin, end - begin);
        // Past the page cache first: the others fill it.
        EXPECT_EQ(Stream(file, begin, end - begin), expected) << begin << " " << end;
        std::string found(end - begin, ' ');
        file.ReadAt(begin, std::as_writable_bytes(std::span(found)));
        EXPECT_EQ(found, expected) << begin << " " << end;
        EXPECT_EQ(Stream(file, begin, end - begin), expected) << begin << " " << end;
        ASSERT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
      }
    }
    ::close(fd);
  }
}

TEST(InputFileTest, ScratchHoldsTheWorstAlignment) {
  for (const std::size_t length : {0u, 1u, 4095u, 4096u, 4097u, 10'000u}) {
    for (const std::uint64_t offset : {0u, 1u, 4095u, 4096u}) {
      const std::uint64_t needed =
          AlignUp(offset + length, kDirectAlignment) - AlignDown(offset, kDirectAlignment);
      EXPECT_GE(InputFile::ScratchBytes(length), needed) << offset << " " << length;
    }
  }
}

TEST(InputFileTest, ServesManyThreads) {
  const TempDir dir;
  const std::string text = RandomBytes(1 << 20, 2);
  for (const DirectIo way : kWays) {
    WriteColdFile(dir / "file", text);
    const InputFile file(dir / "file", "file", way);
    std::vector<std::string> found(8);
    std::vector<std::thread> threads;
    const std::size_t part = text.size() / found.size();
    for (std::size_t i = 0; i < found.size(); ++i) {
      threads.emplace_back([&, i] { found[i] = Stream(file, i * part, part); });
    }
    for (std::thread& thread : threads) thread.join();
    std::string all;
    for (const std::string& piece : found) all += piece;
    EXPECT_EQ(all, text);
  }
}

TEST(InputFileTest, ReadsOnAfterMoving) {
  const TempDir dir;
  WriteFile(dir / "a", "aaaa");
  WriteFile(dir / "b", "bbbb");
  InputFile a(dir / "a", "a");
  InputFile b(dir / "b", "b");
  EXPECT_EQ(Stream(a, 0, 4), "aaaa");
  InputFile c(std::move(a));
  b = std::move(c);
  EXPECT_EQ(b.name(), "a");
  EXPECT_EQ(Stream(b, 1, 3), "aaa");
}

TEST(InputFileTest, StaysWithTheFileThatItOpened) {
  const TempDir dir;
  WriteColdFile(dir / "file", "before");
  const InputFile file(dir / "file", "file");
  WriteFile(dir / "new", "after!");
  std::filesystem::rename(dir / "new", dir / "file");
  EXPECT_EQ(Stream(file, 0, 6), "before");
}

TEST(InputFileTest, RefusesBytesBehindTheEnd) {
  const TempDir dir;
  WriteFile(dir / "file", std::string(5000, 'x'));
  const InputFile file(dir / "file", "the-name");
  std::string out(2, ' ');
  const AlignedBuffer scratch(InputFile::ScratchBytes(2));
  const Error errors[] = {
      ErrorOf([&] { file.ReadAt(4999, std::as_writable_bytes(std::span(out))); }),
      ErrorOf([&] { file.ReadStreaming(4999, 2, scratch.span()); }),
  };
  for (const Error& error : errors) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), AllOf(HasSubstr("the-name: 2 bytes from offset 4999"),
                                       HasSubstr("ends at byte 5000")));
    EXPECT_EQ(error.place().file, "the-name");
  }
  const Error far = ErrorOf([&] { file.ReadStreaming(~std::uint64_t{0}, 2, scratch.span()); });
  EXPECT_EQ(far.code(), ErrorCode::kBadInput);
}

TEST(InputFileTest, NoticesAFileThatShrinksMeanwhile) {
  const TempDir dir;
  for (const DirectIo way : kWays) {
    WriteColdFile(dir / "file", std::string(20'000, 'x'));
    const InputFile file(dir / "file", "the-name", way);
    std::filesystem::resize_file(dir / "file", 5000);
    EXPECT_EQ(Stream(file, 0, 5000), std::string(5000, 'x'));
    const AlignedBuffer scratch(InputFile::ScratchBytes(20'000));
    for (const std::uint64_t offset : {0u, 4096u, 10'000u}) {
      const Error error = ErrorOf([&] { file.ReadStreaming(offset, 10'000, scratch.span()); });
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_THAT(
          error.message(),
          AllOf(HasSubstr("the-name: the file ended at byte "),
                HasSubstr("expected 20.0 kB (20,000 bytes); it changed while it was being read")));
    }
    const Error error = ErrorOf([&] { file.ReadStreaming(0, 10'000, scratch.span()); });
    EXPECT_THAT(error.message(), HasSubstr("ended at byte 5000,"));
  }
}

TEST(InputFileTest, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "directory");
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0666), 0);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (dir / "socket").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::pair<std::filesystem::path, std::string> cases[] = {
      {dir / "directory", "found a directory"},
      {dir / "fifo", "found a FIFO (named pipe)"},
      {dir / "socket", "found a socket"},
      {"/dev/null", "found a character device"},
  };
  for (const auto& example : cases) {
    const Error error = OpenErrorOf(example.first);
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr("the-name: expected a regular file"), HasSubstr(example.second)));
    EXPECT_EQ(error.place().file, "the-name");
  }
  ::close(socket);
}

TEST(InputFileTest, RefusesMissingFiles) {
  const TempDir dir;
  WriteFile(dir / "file", "x");
  std::filesystem::create_symlink("nowhere", dir / "dangling");
  const std::filesystem::path paths[] = {dir / "none", dir / "file/below", dir / "dangling",
                                         dir / std::string(300, 'n')};
  for (const std::filesystem::path& path : paths) {
    const Error error = OpenErrorOf(path);
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << path;
    EXPECT_THAT(error.message(), HasSubstr("the-name: ")) << path;
  }
}

TEST(InputFileTest, RefusesSymlinkLoopsAndFollowsOtherLinks) {
  const TempDir dir;
  std::filesystem::create_symlink("b", dir / "a");
  std::filesystem::create_symlink("a", dir / "b");
  const Error error = OpenErrorOf(dir / "a");
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("links lead in a circle"));

  WriteFile(dir / "blobs/1234", "content");
  std::filesystem::create_symlink("blobs/1234", dir / "link");
  EXPECT_EQ(Stream(InputFile(dir / "link", "link"), 0, 7), "content");
}

TEST(InputFileTest, CallsAMissingPermissionAnIoError) {
  const TempDir dir;
  WriteFile(dir / "file", "x");
  std::filesystem::permissions(dir / "file", std::filesystem::perms::none);
  // Root may read everything, so become nobody for a moment.
  const uid_t user = ::geteuid();
  if (user == 0 && ::seteuid(65534) != 0) GTEST_SKIP() << "cannot give up being root";
  const Error error = OpenErrorOf(dir / "file");
  ASSERT_EQ(::seteuid(user), 0);
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.message(), HasSubstr("cannot open the-name: Permission denied"));
}

}  // namespace
}  // namespace dsv3::formats

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

std::string Read(const ScratchFile& file, std::uint64_t offset, std::size_t bytes) {
  std::string read(bytes, '\0');
  file.ReadAt(offset, std::as_writable_bytes(std::span(read)));
  return read;
}

TEST(ScratchFileTest, KeepsBytesUnderNoName) {
  const testing::TempDir directory;
  const auto scratch = PosixFileSystem().CreateScratch(directory.path());
  ScratchFile& file = *scratch;
  const std::string content = testing::RandomBytes(100'000, 1);
  file.Append(testing::AsBytes(content));
  file.Append(testing::AsBytes("and more"));
  EXPECT_EQ(file.bytes(), content.size() + 8);
  EXPECT_EQ(Read(file, 0, content.size()), content);
  EXPECT_EQ(Read(file, content.size() - 2, 10), content.substr(content.size() - 2) + "and more");
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  file.Clear();
  EXPECT_EQ(file.bytes(), 0U);
  file.Append(testing::AsBytes("new"));
  EXPECT_EQ(Read(file, 0, 3), "new");
}

TEST(ScratchFileTest, NamesTheDirectoryThatItCannotUse) {
  const testing::TempDir directory;
  try {
    PosixFileSystem().CreateScratch(directory / "none");
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(error.message().find(directory / "none"), std::string::npos) << error.message();
  }
  const auto file = PosixFileSystem().CreateScratch(directory.path());
  try {
    Read(*file, 0, 1);
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
  }
}

}  // namespace
}  // namespace dsv3::formats

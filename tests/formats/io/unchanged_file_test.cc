#include "formats/io/unchanged_file.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;
using testing::WriteFile;

class UnchangedFileTest : public ::testing::Test {
 protected:
  UnchangedFileTest() : path_(dir_ / "shard") {
    WriteFile(path_, "20 bytes of weights.");
    const InputFile opened(path_, "the-name");
    mtime_ns_ = opened.mtime_ns();
  }

  // What the file that is there now gives when it is to be the one of the constructor.
  std::optional<Error> ErrorNow() const {
    try {
      RequireUnchanged(InputFile(path_, "the-name"), 20, mtime_ns_, "the-tensor");
      return std::nullopt;
    } catch (const Error& error) {
      return error;
    }
  }

  testing::TempDir dir_;
  fs::path path_;
  std::int64_t mtime_ns_ = 0;
};

TEST_F(UnchangedFileTest, TheSameFileIsNoError) { EXPECT_FALSE(ErrorNow().has_value()); }

TEST_F(UnchangedFileTest, AnotherSizeIsNamed) {
  const fs::file_time_type time = fs::last_write_time(path_);
  WriteFile(path_, "21 bytes of weights..");
  fs::last_write_time(path_, time);
  const std::optional<Error> error = ErrorNow();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ErrorCode::kBadInput);
  EXPECT_EQ(error->place().file, "the-name");
  EXPECT_EQ(error->place().tensor, "the-tensor");
  EXPECT_EQ(error->message(),
            "the-name: the file changed while it was being read (20 bytes before, 21 bytes now); "
            "wait until nothing writes to it, then run the same command again");
}

TEST_F(UnchangedFileTest, AnotherTimeIsNamedWhereTheSizeIsTheSame) {
  fs::last_write_time(path_, fs::last_write_time(path_) + std::chrono::nanoseconds(1000));
  const std::optional<Error> error = ErrorNow();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ErrorCode::kBadInput);
  EXPECT_EQ(error->message(),
            "the-name: the file changed while it was being read (its size is the same, the time of "
            "its last change is not); wait until nothing writes to it, then run the same command "
            "again");
}

}  // namespace
}  // namespace dsv3::formats

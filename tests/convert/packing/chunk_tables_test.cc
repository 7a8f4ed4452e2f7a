#include "convert/packing/chunk_tables.h"

#include <filesystem>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/io/input_file.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

class ChunkTablesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteFile(
        path_,
        testing::PackFile(testing::SafetensorsFile(
            {{"a", formats::Dtype::kU8, {3}, "abc"}, {"b", formats::Dtype::kU8, {5}, "01234"}})));
    const formats::InputFile input(path_, "p");
    source_ = std::make_shared<const PackedFileSource>(
        PackedFileSource{PackedFile(input), "p", path_, input.bytes(), input.mtime_ns()});
  }

  testing::TempDir dir_;
  const std::filesystem::path path_ = dir_ / "p";
  std::shared_ptr<const PackedFileSource> source_;
};

TEST_F(ChunkTablesTest, KeepsWhatWasRead) {
  ChunkTables tables;
  const auto a = tables.Of(source_, 0);
  const auto b = tables.Of(source_, 1);
  EXPECT_EQ(a->chunks.at(0).raw_bytes, 3U);
  EXPECT_EQ(b->chunks.at(0).raw_bytes, 5U);
  std::filesystem::remove(path_);  // not read again
  EXPECT_EQ(tables.Of(source_, 0), a);
  EXPECT_EQ(tables.Of(source_, 1), b);
}

TEST_F(ChunkTablesTest, ForgetsWhatWasNotUsedLast) {
  ChunkTables tables(1);
  const auto a = tables.Of(source_, 0);
  const auto b = tables.Of(source_, 1);
  EXPECT_EQ(tables.Of(source_, 1), b);
  EXPECT_NE(tables.Of(source_, 0), a);
  std::filesystem::remove(path_);
  testing::ExpectBadInput([&] { tables.Of(source_, 1); }, "p");
}

TEST_F(ChunkTablesTest, FileThatChangedIsRefused) {
  ChunkTables tables;
  const std::string content = testing::ReadFile(path_);
  testing::WriteFile(path_, content + "x");
  testing::ExpectBadInput([&] { tables.Of(source_, 0); }, "p: ", "the file changed");
}

}  // namespace
}  // namespace dsv3::convert

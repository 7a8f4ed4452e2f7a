#include "convert/packing/chunk_tables.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

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
    testing::WriteFile(path_, content_);
    const formats::InputFile input(path_, "p");
    source_ = std::make_shared<const PackedFileSource>(
        PackedFileSource{"p", path_, input.bytes(), input.mtime_ns()});
    head_ = ReadPackedHead(input);
  }

  testing::TempDir dir_;
  const std::filesystem::path path_ = dir_ / "p";
  const std::string content_ = testing::PackFile(testing::SafetensorsFile(
      {{"a", formats::Dtype::kU8, {3}, "abc"}, {"b", formats::Dtype::kU8, {5}, "01234"}}));
  std::shared_ptr<const PackedFileSource> source_;
  PackedHead head_;
};

TEST_F(ChunkTablesTest, KeepsWhatWasRead) {
  ChunkTables tables;
  const auto a = tables.Of(source_, head_.streams[0]);
  const auto b = tables.Of(source_, head_.streams[1]);
  EXPECT_EQ(a->chunks.at(0).raw_bytes, 3U);
  EXPECT_EQ(b->chunks.at(0).raw_bytes, 5U);
  std::filesystem::remove(path_);  // not read again
  EXPECT_EQ(tables.Of(source_, head_.streams[0]), a);
  EXPECT_EQ(tables.Of(source_, head_.streams[1]), b);
}

TEST_F(ChunkTablesTest, ForgetsWhatWasNotUsedLast) {
  ChunkTables tables(1);
  const auto a = tables.Of(source_, head_.streams[0]);
  const auto b = tables.Of(source_, head_.streams[1]);
  EXPECT_EQ(tables.Of(source_, head_.streams[1]), b);
  EXPECT_NE(tables.Of(source_, head_.streams[0]), a);
  EXPECT_NE(tables.Of(source_, head_.streams[1]), b);
}

TEST_F(ChunkTablesTest, KeepsTheLastFilesOpen) {
  ChunkTables tables(1);
  const auto a = tables.Of(source_, head_.streams[0]);
  std::filesystem::remove(path_);
  EXPECT_EQ(tables.Of(source_, head_.streams[1])->chunks.at(0).raw_bytes, 5U);
  const std::filesystem::path other = dir_ / "other";
  testing::WriteFile(other, content_);
  const formats::InputFile input(other, "other");
  std::vector<std::shared_ptr<const PackedFileSource>> others;
  for (int i = 0; i < 16; ++i) {
    others.push_back(std::make_shared<const PackedFileSource>(
        PackedFileSource{"other", other, input.bytes(), input.mtime_ns()}));
    tables.Of(others.back(), head_.streams[0]);
  }
  testing::ExpectBadInput([&] { tables.Of(source_, head_.streams[0]); }, "p");
  std::filesystem::remove(other);
  EXPECT_NO_THROW(tables.Of(others[1], head_.streams[1]));
}

TEST_F(ChunkTablesTest, FileThatChangedIsRefused) {
  ChunkTables tables;
  testing::WriteFile(path_, content_ + "x");
  testing::ExpectBadInput([&] { tables.Of(source_, head_.streams[0]); }, "p: ", "the file changed");
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/stream/file_digests.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/hash/git_blob.h"
#include "formats/hash/xxh3.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::AsBytes;
using testing::ErrorOf;
using testing::RandomBytes;
using testing::Sha256Of;

class FileDigestsTest : public ::testing::Test {
 protected:
  FileToDigest Add(const std::string& name, std::size_t bytes) {
    contents_.push_back(RandomBytes(bytes, contents_.size() + 1));
    testing::WriteFile(dir_ / name, contents_.back());
    return {name, dir_ / name, true, true, {}};
  }
  std::vector<FileDigest> Digest(const std::vector<FileToDigest>& files, unsigned threads) {
    return DigestFiles(files, threads, progress_, stop_);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  std::vector<std::string> contents_;
  testing::CountingSink progress_;
  StopToken stop_;
};

TEST_F(FileDigestsTest, GivesTheDigestsOfEveryFileInOrder) {
  std::vector<FileToDigest> files;
  const std::size_t kPiece = std::size_t{1} << 20;
  std::uint64_t total = 0;
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, kPiece - 1, kPiece, kPiece + 1, 3 * kPiece + 17,
        std::size_t{63}, std::size_t{64}, std::size_t{4095}, 5 * kPiece, std::size_t{0}}) {
    files.push_back(Add("file" + std::to_string(files.size()), bytes));
    total += bytes;
  }
  for (const unsigned threads : {1U, 2U, 5U}) {
    const std::uint64_t before = progress_.bytes();
    const std::vector<FileDigest> digests = Digest(files, threads);
    ASSERT_EQ(digests.size(), files.size());
    for (std::size_t i = 0; i < files.size(); ++i) {
      EXPECT_EQ(digests[i].bytes, contents_[i].size());
      EXPECT_EQ(digests[i].sha256, Sha256Of(contents_[i])) << i;
      EXPECT_EQ(digests[i].git_blob_sha1, formats::GitBlobSha1Hex(AsBytes(contents_[i]))) << i;
      EXPECT_FALSE(digests[i].error.has_value());
    }
    // Each byte once.
    EXPECT_EQ(progress_.bytes() - before, total);
  }
}

TEST_F(FileDigestsTest, DigestsRangesInTheSamePass) {
  FileToDigest file = Add("file", (std::size_t{2} << 20) + 100);
  file.ranges = {{0, 0},
                 {0, 10},
                 {10, 10},
                 {20, (1 << 20) + 5},
                 {(2 << 20), (2 << 20) + 100},
                 {(2 << 20) + 100, (2 << 20) + 100}};
  const auto expect_ranges = [&](const FileDigest& digest) {
    ASSERT_EQ(digest.ranges.size(), file.ranges.size());
    for (std::size_t i = 0; i < file.ranges.size(); ++i) {
      const auto [begin, end] = file.ranges[i];
      EXPECT_EQ(digest.ranges[i],
                formats::Xxh3Hex(AsBytes(contents_[0]).subspan(begin, end - begin)))
          << i;
    }
  };
  expect_ranges(Digest({file}, 2)[0]);
  EXPECT_EQ(progress_.bytes(), contents_[0].size());
  // Alone, only what lies between the first and the last is read.
  file.sha256 = file.git_blob_sha1 = false;
  file.ranges = {{5, 7}, {100, 200}};
  expect_ranges(Digest({file}, 2)[0]);
  EXPECT_EQ(progress_.bytes(), contents_[0].size() + 195);
  EXPECT_EQ(Digest({file}, 1)[0].sha256, "");
}

TEST_F(FileDigestsTest, AFileThatCannotBeReadFailsAlone) {
  std::vector<FileToDigest> files = {Add("a", 100), Add("b", 100)};
  fs::remove(dir_ / "a");
  const std::vector<FileDigest> digests = Digest(files, 2);
  ASSERT_TRUE(digests[0].error.has_value());
  EXPECT_EQ(digests[0].error->code(), ErrorCode::kBadInput);
  EXPECT_EQ(digests[0].sha256, "");
  EXPECT_EQ(digests[1].sha256, Sha256Of(contents_[1]));
}

TEST_F(FileDigestsTest, StopsOnRequest) {
  const std::vector<FileToDigest> files = {Add("a", 100)};
  stop_.RequestStop();
  EXPECT_EQ(ErrorOf([&] { Digest(files, 2); }).code(), ErrorCode::kInterrupted);
}

TEST_F(FileDigestsTest, ReadsThousandsOfSmallFiles) {
  std::vector<FileToDigest> files;
  for (int i = 0; i < 2000; ++i) files.push_back(Add("file" + std::to_string(i), 10));
  const std::vector<FileDigest> digests = Digest(files, 2);
  for (std::size_t i = 0; i < files.size(); ++i) {
    ASSERT_EQ(digests[i].sha256, Sha256Of(contents_[i]));
  }
  EXPECT_TRUE(Digest({}, 2).empty());
}

}  // namespace
}  // namespace dsv3::convert

// --delete-source-shards.

#include "convert/job/source_release.h"

#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/job/source_release_test.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/sanitizers.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::FaultyFileSystem;
using ::testing::HasSubstr;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::kTinyShard3;
using testing::kTinyShard4;
using testing::QuickFileSystem;
using testing::ReadTree;
using testing::SourceReleaseTest;
using testing::WatchedFileSystem;
using Outcome = ConversionReport::Outcome;

TEST_F(SourceReleaseTest, FreesEveryShardAndNothingElse) {
  auto source = ReadTree(in_);
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_EQ(ReadTree(out_), expected_);
  for (const char* shard : {kTinyShard1, kTinyShard2, kTinyShard3, kTinyShard4}) {
    source.erase(shard);
  }
  EXPECT_EQ(ReadTree(in_), source);
}

TEST_F(SourceReleaseTest, AShardGoesOnlyWhenAllThatNeedsItIsInPlace) {
  const std::map<std::string, std::set<std::string>> needed_by = {
      {kTinyShard1, {kTinyShard1}},
      {kTinyShard2, {kTinyShard1, kTinyShard2}},  // a scale of shard 1
      {kTinyShard3, {kTinyShard3}},
      {kTinyShard4, {kTinyShard2, kTinyShard3}},  // nothing but scales
  };
  for (const unsigned threads : {1U, 4U}) {
    testing::SmallFp8Checkpoint().Write(in_);
    fs::remove_all(out_);
    WatchedFileSystem watched;
    std::size_t removed = 0;
    watched.on_remove = [&](const fs::path& path) {
      if (path.parent_path() != in_) return;
      ++removed;
      for (const std::string& output : needed_by.at(path.filename().string())) {
        EXPECT_TRUE(fs::exists(out_ / output)) << path << " goes before " << output;
      }
    };
    Conversion conversion = Command();
    conversion.request.run.threads = threads;
    conversion.Run(watched);
    EXPECT_EQ(removed, 4U);
  }
}

TEST_F(SourceReleaseTest, TheSameCommandThenSaysThatNothingIsToDo) {
  Command().Run();
  const std::string before = testing::DetailedListing(out_);
  EXPECT_EQ(Command().Run().outcome, Outcome::kNothingToDo);
  EXPECT_EQ(testing::DetailedListing(out_), before);
}

TEST_F(SourceReleaseTest, AnInterruptedRunGoesOnWithoutTheShardsThatItFreed) {
  // Ends at every change of the run, the last time after all.
  for (std::size_t change = 0;; change += testing::Stride(5)) {
    SCOPED_TRACE(change);
    fs::remove_all(in_);
    fs::remove_all(out_);
    testing::SmallFp8Checkpoint().Write(in_);
    QuickFileSystem quick;
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    try {
      Command().Run(faulty);
      break;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo) << error.message();
    }
    Command().Run();
    EXPECT_EQ(ReadTree(out_), expected_);
    EXPECT_TRUE(ShardsLeft().empty());
    if (HasFailure()) return;
  }
}

TEST_F(SourceReleaseTest, WhatWasReadBackWrongDeletesNothing) {
  WatchedFileSystem watched;
  watched.on_renamed = [&](const fs::path& path) {
    if (path.filename() != kTinyShard1) return;
    std::string content = testing::ReadFile(path);
    content.back() ^= 1;
    testing::WriteFile(path, content);
  };
  std::set<std::string> removed;
  watched.on_remove = [&](const fs::path& path) {
    if (path.parent_path() == in_) removed.insert(path.filename());
  };
  const Error error = testing::ErrorOf([&] { Command().Run(watched); });
  EXPECT_EQ(error.code(), ErrorCode::kVerification);
  EXPECT_THAT(error.message(), HasSubstr(kTinyShard1));
  EXPECT_THAT(error.message(), HasSubstr("not those that were written"));
  EXPECT_EQ(removed.count(kTinyShard1), 0U);
  EXPECT_EQ(removed.count(kTinyShard2), 0U);
  // Undamaged next time.
  Command().Run();
  EXPECT_EQ(ReadTree(out_), expected_);
  EXPECT_TRUE(ShardsLeft().empty());
}

TEST_F(SourceReleaseTest, KeptOutputsFreeTheirShardsToo) {
  // A run that frees nothing ends before its index.
  QuickFileSystem quick;
  Conversion plain(in_, out_);
  for (std::size_t change = 0; !fs::exists(out_ / kTinyShard1); ++change) {
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    ASSERT_EQ(testing::ErrorOf([&] { plain.Run(faulty); }).code(), ErrorCode::kIo);
  }
  const ConversionReport report = Command().Run();
  EXPECT_GE(report.kept_files, 1U);
  EXPECT_EQ(report.freed_source_shards, 4U);
  EXPECT_EQ(ReadTree(out_), expected_);
  EXPECT_TRUE(ShardsLeft().empty());
}

TEST_F(SourceReleaseTest, AFileThatWasDamagedAfterItsSourceWentIsBadInputAndStays) {
  QuickFileSystem quick;
  for (std::size_t change = 0; fs::exists(in_ / kTinyShard1); ++change) {
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    ASSERT_EQ(testing::ErrorOf([&] { Command().Run(faulty); }).code(), ErrorCode::kIo);
  }
  std::string content = testing::ReadFile(out_ / kTinyShard1);
  content.back() ^= 1;
  testing::WriteFile(out_ / kTinyShard1, content);
  const auto before = ReadTree(out_);
  const Error error = testing::ErrorOf([&] { Command().Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(kTinyShard1));
  EXPECT_THAT(error.message(), HasSubstr("--delete-source-shards"));
  EXPECT_EQ(ReadTree(out_), before);
}

}  // namespace
}  // namespace dsv3::convert

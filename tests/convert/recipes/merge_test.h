#pragma once

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/reshard_job.h"
#include "formats/error.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/rank_shards.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// Merges rank shards in a directory of its own.
class MergeTest : public ::testing::Test {
 protected:
  convert::MergeReport Merge(formats::FileSystem& file_system) {
    convert::ProgressSink progress;
    const convert::StopToken stop;
    return convert::Merge(request_, file_system, progress, stop);
  }
  convert::MergeReport Merge() {
    QuickFileSystem file_system;
    return Merge(file_system);
  }

  // Cuts the checkpoint, merges the ranks and compares the files.
  void ExpectOriginal(const TinyCheckpoint& original, const RankShards& ranks) {
    original.Write(original_);
    ranks.Write(ranks_);
    const convert::MergeReport report = Merge();
    EXPECT_TRUE(report.original);
    EXPECT_THAT(report.differences, ::testing::IsEmpty());
    ExpectSameFiles(out_, original_);
  }

  // Merges ranks that are refused and leave nothing visible.
  Error RefusalOf(const RankShards& ranks) {
    std::filesystem::remove_all(ranks_);
    std::filesystem::remove_all(out_);
    ranks.Write(ranks_);
    return RefusalHere();
  }
  Error RefusalHere() {
    const Error error = ErrorOf([&] { Merge(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    if (std::filesystem::exists(out_)) {
      for (const auto& [name, content] : ReadTree(out_)) {
        EXPECT_TRUE(name.starts_with(".dsv3-") || name.ends_with(".partial") || name.ends_with("/"))
            << name;
      }
    }
    return error;
  }

  const TempDir dir_;
  const std::filesystem::path original_ = dir_ / "original";
  const std::filesystem::path ranks_ = dir_ / "ranks";
  const std::filesystem::path out_ = dir_ / "out";
  convert::JobRequest request_ = [this] {
    convert::JobRequest request;
    request.input = ranks_;
    request.output = out_;
    request.run.threads = 1;
    return request;
  }();
};

}  // namespace dsv3::testing

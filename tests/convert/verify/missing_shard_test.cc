#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/sample.h"
#include "convert/stream/executor.h"
#include "convert/verify/numeric.h"
#include "convert/verify/structure.h"
#include "formats/io/file_system.h"
#include "tests/support/temp_dir.h"

// Of a shard that is missing one finding says all: nothing of the tensors that it may hold.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

std::vector<std::string> Kinds(const Verification& verification) {
  std::vector<std::string> kinds;
  for (const formats::Finding& finding : verification.findings) kinds.push_back(finding.kind);
  return kinds;
}

class MissingShardTest : public ::testing::TestWithParam<SamplePreset> {};

TEST_P(MissingShardTest, IsTheOnlyFinding) {
  const testing::TempDir dir(testing::MemoryDirectory());
  ProgressSink progress;
  const StopToken stop;
  WriteSample({GetParam(), 0}, dir / "in", formats::PosixFileSystem(), progress);
  std::vector<fs::path> shards;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir / "in")) {
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path());
  }
  ASSERT_GT(shards.size(), 1U);
  NumericRequest request;
  request.input = dir / "in";
  request.threads = 2;
  for (const fs::path& shard : shards) {
    SCOPED_TRACE(shard.filename());
    fs::rename(shard, dir / "away");
    EXPECT_THAT(Kinds(VerifyStructure({dir / "in"}).verification), ElementsAre("missing-shard"));
    EXPECT_THAT(Kinds(VerifyNumeric(request, progress, stop).verification),
                ElementsAre("missing-shard"));
    fs::rename(dir / "away", shard);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, MissingShardTest,
                         ::testing::Values(SamplePreset::kTiny, SamplePreset::kTinyV32,
                                           SamplePreset::kTinyKimi, SamplePreset::kGlm5,
                                           SamplePreset::kMoonlight, SamplePreset::kKimiInt4,
                                           SamplePreset::kKimiK25, SamplePreset::kAwq,
                                           SamplePreset::kNvFp4, SamplePreset::kV4));

}  // namespace
}  // namespace dsv3::convert

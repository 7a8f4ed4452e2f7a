// Conversions in parts: --part i/n and --finish.

#include "tests/convert/support/part_test.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::HasSubstr;
using testing::ReadTree;
using Outcome = ConversionReport::Outcome;
using Tree = std::map<std::string, std::string>;

constexpr char kIndex[] = "model.safetensors.index.json";

class PartTest : public testing::PartTest {};

TEST_F(PartTest, AllPartsAndFinishGiveWhatOneRunGives) {
  for (const std::uint64_t count : {1U, 2U, 3U, 5U}) {
    SCOPED_TRACE(std::to_string(count) + " parts");
    fs::remove_all(out_);
    std::uint64_t files = 0;
    for (std::uint64_t index = count; index-- > 0;) {
      const ConversionReport report = Part(index, count).Run();
      EXPECT_EQ(report.outcome, Outcome::kPartDone);
      files += report.files.size();
      EXPECT_EQ(report.missing_files, 3 - files);
      EXPECT_FALSE(fs::exists(out_ / kIndex));
      EXPECT_FALSE(fs::exists(out_ / kManifestName));
      EXPECT_EQ(fs::exists(out_ / "config.json"), index == 0);
    }
    const ConversionReport report = Finish().Run();
    EXPECT_EQ(report.outcome, Outcome::kConverted);
    EXPECT_EQ(report.files.size(), 3U);
    EXPECT_EQ(report.kept_files, 3U);
    EXPECT_EQ(report.nan_codes.size(),
              Whole(dir_ / ("again" + std::to_string(count))).Run().nan_codes.size());
    ExpectFinished();
  }
}

TEST_F(PartTest, TheLastPartMayFinish) {
  Part(1, 2).Run();
  Conversion last = Part(0, 2);
  last.request.run.finish = true;
  const ConversionReport report = last.Run();
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  EXPECT_GT(report.bytes_written, 0U);
  ExpectFinished();
}

TEST_F(PartTest, APartThatFinishesTooEarlyIsMadeAndKept) {
  Conversion first = Part(0, 2);
  first.request.run.finish = true;
  const Error error = testing::ErrorOf([&] { first.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("part 1/2"));
  EXPECT_TRUE(fs::exists(out_ / testing::kTinyShard1));
  EXPECT_FALSE(fs::exists(out_ / kIndex));
}

TEST_F(PartTest, ADonePartRunsAgainWithoutWriting) {
  Part(0, 2).Run();
  const fs::file_time_type made = fs::last_write_time(out_ / testing::kTinyShard1);
  const ConversionReport report = Part(0, 2).Run();
  EXPECT_EQ(report.outcome, Outcome::kPartDone);
  EXPECT_EQ(report.kept_files, report.files.size());
  EXPECT_EQ(report.bytes_written, 0U);
  EXPECT_EQ(fs::last_write_time(out_ / testing::kTinyShard1), made);
}

TEST_F(PartTest, PartsOfAFinishedOutputHaveNothingToDo) {
  Part(0, 2).Run();
  Part(1, 2).Run();
  Finish().Run();
  const std::string before = Listing();
  for (const Conversion& conversion : {Part(0, 2), Part(1, 2), Part(2, 7), Finish(), Whole()}) {
    EXPECT_EQ(conversion.Run().outcome, Outcome::kNothingToDo);
  }
  EXPECT_EQ(Listing(), before);
}

TEST_F(PartTest, FinishWaitsForPartsWithoutFilesToo) {
  for (std::uint64_t index = 0; index < 4; ++index) Part(index, 5).Run();
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 4/5");
  EXPECT_EQ(Part(4, 5).Run().files.size(), 0U);
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartTest, FinishMakesAFileAgainThatWasDamagedSinceItsPart) {
  Part(0, 2).Run();
  Part(1, 2).Run();
  std::string content = testing::ReadFile(out_ / testing::kTinyShard3);
  content.back() ^= 1;
  testing::WriteFile(out_ / testing::kTinyShard3, content);
  testing::QuickFileSystem quick;
  testing::WarningSink warnings;
  EXPECT_EQ(Finish().Run(quick, warnings).kept_files, 2U);
  EXPECT_THAT(warnings.warnings(), ::testing::Contains(HasSubstr(testing::kTinyShard3)));
  ExpectFinished();
}

TEST_F(PartTest, AnInterruptedPartGoesOnAlone) {
  // The part of two files; whichever of them is ready first is kept.
  Conversion plan = Part(0, 2);
  plan.request.run.dry_run = true;
  const std::uint64_t longer = plan.Run().files.size() == 2 ? 0 : 1;
  Part(1 - longer, 2).Run();
  const std::string journal = fmt::format(".dsv3-journal-part-{}-of-2", 1 - longer);
  const std::string before = testing::ReadFile(out_ / journal);
  const std::size_t shards = CountShards();
  InterruptWhen(Part(longer, 2), [&] { return CountShards() > shards; });
  const ConversionReport report = Part(longer, 2).Run();
  EXPECT_TRUE(report.resumed);
  EXPECT_EQ(report.kept_files, 1U);
  EXPECT_EQ(testing::ReadFile(out_ / journal), before);
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartTest, ARunOfTheWholeJobDoesWhatPartsLeft) {
  Part(1, 3).Run();
  InterruptAfter(Part(0, 3), "config.json");
  const ConversionReport report = Whole().Run();
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  EXPECT_TRUE(report.resumed);
  EXPECT_EQ(report.kept_files, 1U);
  ExpectFinished();
}

TEST_F(PartTest, AfterARunOfTheWholeJobThereMayBeAnotherNumberOfParts) {
  Part(1, 2).Run();
  InterruptWhen(Whole(), [&] { return !fs::exists(out_ / ".dsv3-journal-part-1-of-2"); });
  for (std::uint64_t index = 0; index < 3; ++index) Part(index, 3).Run();
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartTest, SideFilesAreTheFirstPartsAlone) {
  Part(0, 2).Run();
  Part(1, 2).Run();
  const std::string config = R"("file":"config.json")";
  EXPECT_THAT(testing::ReadFile(out_ / ".dsv3-journal-part-0-of-2"), HasSubstr(config));
  EXPECT_THAT(testing::ReadFile(out_ / ".dsv3-journal-part-1-of-2"),
              ::testing::Not(HasSubstr(config)));
}

TEST_F(PartTest, PartsGoOnWithWhatARunOfTheWholeJobLeft) {
  InterruptAfter(Whole(), testing::kTinyShard1);
  const ConversionReport first = Part(0, 2).Run();
  EXPECT_EQ(first.kept_files, first.files.size());
  Part(1, 2).Run();
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartTest, AnotherJobReplacesPartsWithOverwrite) {
  Part(0, 2).Run();
  Conversion other = Whole();
  other.request.run.tensor_sha256 = true;
  ExpectRefused(other, ErrorCode::kUsage, "part 0/2");
  other.request.run.overwrite = true;
  other.Run();
  for (const auto& [name, content] : ReadTree(out_))
    EXPECT_FALSE(name.starts_with(".dsv3-")) << name;
  // And back.
  Conversion back = Whole();
  back.request.run.overwrite = true;
  back.Run();
  ExpectFinished();
}

TEST_F(PartTest, DryRunTellsOfTheShareAlone) {
  Conversion plan = Part(1, 3);
  plan.request.run.dry_run = true;
  const ConversionReport report = plan.Run();
  EXPECT_EQ(report.outcome, Outcome::kPlanned);
  ASSERT_EQ(report.files.size(), 1U);
  EXPECT_EQ(report.files[0].name, testing::kTinyShard2);
  EXPECT_FALSE(fs::exists(out_));
  Conversion whole = Whole();
  whole.request.run.dry_run = true;
  EXPECT_LT(report.disk_needed_bytes, whole.Run().disk_needed_bytes);
}

TEST_F(PartTest, LocksAndJournalsAreGoneInTheEnd) {
  // What killed runs leave.
  Part(0, 2).Run();
  Part(1, 2).Run();
  for (const char* name : {".dsv3-lock", ".dsv3-lock-part-0-of-2", ".dsv3-lock-part-1-of-2",
                           ".dsv3-journal-part-1-of-2.partial", ".dsv3-journal-process-1"}) {
    testing::WriteFile(out_ / name, "");
  }
  Finish().Run();
  ExpectFinished();
}

}  // namespace
}  // namespace dsv3::convert

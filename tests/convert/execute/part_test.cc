// Conversions in parts: --part i/n and --finish.

#include <cerrno>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/execute/journal.h"
#include "convert/execute/manifest.h"
#include "convert/execute/output_lock.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::HasSubstr;
using testing::ReadTree;
using Outcome = ConversionReport::Outcome;
using Tree = std::map<std::string, std::string>;

constexpr char kIndex[] = "model.safetensors.index.json";

class PartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(in_);
    Whole(dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Whole(const fs::path& output) const { return {in_, output}; }
  Conversion Whole() const { return Whole(out_); }
  Conversion Part(std::uint64_t index, std::uint64_t count) const {
    Conversion conversion = Whole();
    conversion.request.run.part = RunOptions::Part{index, count};
    return conversion;
  }
  Conversion Finish() const {
    Conversion conversion = Whole();
    conversion.request.run.finish = true;
    return conversion;
  }

  std::size_t CountShards() const {
    std::size_t count = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(out_)) {
      count += entry.path().extension() == ".safetensors" ? 1 : 0;
    }
    return count;
  }

  // Ends a run by a failing disk once `reached`.
  void InterruptWhen(const Conversion& conversion, const std::function<bool()>& reached) const {
    testing::QuickFileSystem quick;
    for (std::size_t at = 0; !reached(); ++at) {
      testing::FaultyFileSystem faulty(quick, at, EIO,
                                       testing::FaultyFileSystem::Failing::kFromThenOn);
      const Error error = testing::ErrorOf([&] { conversion.Run(faulty); });
      ASSERT_EQ(error.code(), ErrorCode::kIo) << error.message();
    }
  }

  void InterruptAfter(const Conversion& conversion, const std::string& name) const {
    InterruptWhen(conversion, [&] { return fs::exists(out_ / name); });
  }

  std::string Listing() const {
    return fs::exists(out_) ? testing::DetailedListing(out_) : std::string();
  }

  // The command must fail with this code and message, and touch nothing.
  void ExpectRefused(const Conversion& conversion, ErrorCode code, const std::string& message) {
    const std::string before = Listing();
    const Error error = testing::ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_THAT(error.message(), HasSubstr(message));
    EXPECT_EQ(Listing(), before);
  }

  void ExpectFinished() const {
    const Tree found = ReadTree(out_);
    for (const auto& [name, content] : expected_) {
      ASSERT_EQ(found.count(name), 1U) << name << " is missing";
      EXPECT_TRUE(found.at(name) == content) << name << " differs";
    }
    for (const auto& [name, content] : found) {
      EXPECT_EQ(expected_.count(name), 1U) << name << " is left over";
    }
  }

  testing::TempDir dir_;
  fs::path in_ = dir_ / "in";
  fs::path out_ = dir_ / "out";
  Tree expected_;
};

TEST_F(PartTest, AllPartsAndFinishGiveWhatOneRunGives) {
  for (const std::uint64_t count : {1, 2, 3, 5}) {
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

TEST_F(PartTest, FinishIsRefusedWhileAPartIsMissing) {
  ExpectRefused(Finish(), ErrorCode::kUsage, "no part of this job was made here");
  EXPECT_FALSE(fs::exists(out_));
  Part(1, 3).Run();
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 0/3");
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 2/3 (" + std::string(testing::kTinyShard3));
  Part(0, 3).Run();
  ExpectRefused(
      Finish(), ErrorCode::kUsage,
      "parts are missing or not complete: part 2/3 (" + std::string(testing::kTinyShard3));
  Part(2, 3).Run();
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartTest, FinishWaitsForPartsWithoutFilesToo) {
  for (std::uint64_t index = 0; index < 4; ++index) Part(index, 5).Run();
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 4/5");
  EXPECT_EQ(Part(4, 5).Run().files.size(), 0U);
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartTest, FinishIsRefusedForAFileThatIsGoneOrCutOff) {
  Part(0, 2).Run();
  Part(1, 2).Run();
  const fs::path file = out_ / testing::kTinyShard3;
  fs::resize_file(file, fs::file_size(file) - 1);
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 1/2 (" + std::string(testing::kTinyShard3));
  fs::remove(file);
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 1/2");
  fs::remove(out_ / "config.json");
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 0/2 (config.json)");
  Part(0, 2).Run();
  Part(1, 2).Run();
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

TEST_F(PartTest, TheSamePartTwiceAtOnceIsRefused) {
  Part(0, 2).Run();
  const OutputLock first(out_, ::flock, {RunName::Kind::kPart, 0, 2});
  const Error error = testing::ErrorOf([&] { Part(0, 2).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is making part 0/2 (process "));
  Part(1, 2).Run();
}

TEST_F(PartTest, PartsAndRunsOfTheWholeJobKeepEachOtherOut) {
  Part(0, 2).Run();
  {
    const OutputLock part(out_, ::flock, {RunName::Kind::kPart, 1, 2});
    for (const Conversion& conversion : {Whole(), Finish(), Part(0, 3)}) {
      const Error error = testing::ErrorOf([&] { conversion.Run(); });
      EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.message();
    }
  }
  const OutputLock whole(out_);
  const Error error = testing::ErrorOf([&] { Part(0, 2).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is writing to this directory"));
}

TEST_F(PartTest, AnotherNumberOfPartsIsRefused) {
  Part(0, 2).Run();
  ExpectRefused(Part(1, 3), ErrorCode::kUsage, "part 0/2 was begun here, and this is part 1/3");
}

TEST_F(PartTest, AnotherSourceIsRefused) {
  Part(0, 2).Run();
  // The same headers, other values, another time.
  testing::TinyCheckpoint other = testing::SmallFp8Checkpoint();
  other.Find("router.bias").bytes[0] ^= 1;
  other.Write(dir_ / "other");
  Conversion part = Part(1, 2);
  part.request.input = dir_ / "other";
  ExpectRefused(part, ErrorCode::kBadInput, "part 0/2 was made from another source: model-0000");
  Conversion finish = Finish();
  finish.request.input = dir_ / "other";
  ExpectRefused(finish, ErrorCode::kBadInput, "part 0/2 was made from another source");
}

TEST_F(PartTest, OtherScalesAreAnotherSourceEvenWithTheSameTimes) {
  Part(0, 2).Run();
  const auto times = testing::FileTimes(in_);
  testing::TinyCheckpoint other = testing::SmallFp8Checkpoint();
  // A scale of another shard than those that part 1 reads weights of.
  std::string& scale = other.Find("c.weight_scale_inv").bytes;
  scale[scale.size() - 4] = static_cast<char>(scale[scale.size() - 4] ^ 1);
  other.Write(in_);
  testing::RestoreFileTimes(in_, times);
  const Tree before = ReadTree(out_);
  const Error error = testing::ErrorOf([&] { Part(1, 2).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_THAT(error.message(), HasSubstr("c.weight_scale_inv"));
  EXPECT_TRUE(ReadTree(out_) == before);
}

TEST_F(PartTest, OtherOptionsAreRefused) {
  Part(0, 2).Run();
  Conversion part = Part(1, 2);
  part.request.run.tensor_sha256 = true;
  ExpectRefused(part, ErrorCode::kUsage, "part 0/2 was begun by another command");
}

TEST_F(PartTest, AForeignFileIsRefused) {
  testing::WriteFile(out_ / testing::kTinyShard3, "mine");
  ExpectRefused(Part(0, 2), ErrorCode::kUsage, "is not empty");
  fs::remove_all(out_);
  Part(0, 2).Run();
  testing::WriteFile(out_ / testing::kTinyShard3, "mine");
  ExpectRefused(Part(1, 2), ErrorCode::kUsage, "is in the way");
  // Another part's matter.
  EXPECT_EQ(Part(0, 2).Run().outcome, Outcome::kPartDone);
}

TEST_F(PartTest, OptionsThatContradictPartsAreRefused) {
  for (Conversion conversion : {Part(0, 2), Finish()}) {
    conversion.request.run.overwrite = true;
    ExpectRefused(conversion, ErrorCode::kUsage, "does not go with --overwrite");
    conversion.request.run.overwrite = false;
    conversion.request.run.delete_source_shards = true;
    ExpectRefused(conversion, ErrorCode::kUsage, "does not go with --delete-source-shards");
  }
  ExpectRefused(Part(2, 2), ErrorCode::kUsage, "--part");
  ExpectRefused(Part(0, 0), ErrorCode::kUsage, "--part");
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

TEST_F(PartTest, APartLeavesTheOutputOfAnotherJobAlone) {
  Conversion other = Whole();
  other.request.run.tensor_sha256 = true;
  other.Run();
  ExpectRefused(Part(0, 2), ErrorCode::kUsage, "holds the finished output of another command");
  // An overwrite that was begun is for a run of the whole job to go on with.
  Conversion overwrite = Whole();
  overwrite.request.run.overwrite = true;
  testing::QuickFileSystem quick;
  for (std::size_t at = 0; fs::exists(out_ / kManifestName); ++at) {
    testing::FaultyFileSystem faulty(quick, at, EIO,
                                     testing::FaultyFileSystem::Failing::kFromThenOn);
    testing::ErrorOf([&] { overwrite.Run(faulty); });
  }
  ASSERT_TRUE(fs::exists(out_ / testing::kTinyShard3));
  ExpectRefused(Part(0, 2), ErrorCode::kUsage, "gives way to this job and is still there");
  Whole().Run();
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

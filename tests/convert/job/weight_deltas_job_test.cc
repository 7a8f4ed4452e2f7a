// What every conversion promises, of weight deltas: parts, processes, disks that fail, and what OUT
// may hold.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/conversion_report.h"
#include "convert/job/work_sharing.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/stream/changed_bytes.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "tests/convert/job/weight_deltas_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/thread_sharing.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using Outcome = convert::ConversionReport::Outcome;
using ::testing::HasSubstr;

constexpr std::size_t kFiles = 4;

class WeightDeltasJobTest : public WeightDeltasTest {
 protected:
  void SetUp() override {
    WriteVersions(in_);
    Pack(in_, dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Whole() const { return Pack(in_, out_); }
  void ExpectFinished() const { ExpectSameTree(ReadTree(out_), expected_); }

  std::string Listing() const { return fs::exists(out_) ? DetailedListing(out_) : ""; }

  // Expects that the command fails with this code and touches nothing.
  Error Refusal(const Conversion& conversion, ErrorCode code) const {
    const std::string before = Listing();
    const Error error = ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_EQ(Listing(), before);
    return error;
  }

  // Ends a run by a failing disk once its first file is complete.
  void Interrupt(const Conversion& conversion) const {
    QuickFileSystem quick;
    for (std::size_t at = 0; !fs::exists(out_ / "model-00000-of-00004.safetensors"); ++at) {
      FaultyFileSystem faulty(quick, at, EIO, FaultyFileSystem::Failing::kFromThenOn);
      ASSERT_EQ(ErrorOf([&] { conversion.Run(faulty); }).code(), ErrorCode::kIo);
    }
  }

  fs::path in_ = dir_ / "in";
  fs::path out_ = dir_ / "out";
  Tree expected_;
};

TEST_P(WeightDeltasJobTest, AllPartsAndFinishGiveWhatOneRunGives) {
  for (const std::uint64_t count : {1U, 3U, 6U}) {
    SCOPED_TRACE(std::to_string(count) + " parts");
    fs::remove_all(out_);
    for (std::uint64_t index = count; index-- > 0;) {
      EXPECT_EQ(PartOf(Whole(), index, count).Run().outcome, Outcome::kPartDone);
      // Engines and readers look for it.
      EXPECT_FALSE(fs::exists(out_ / "model.safetensors.index.json"));
    }
    const convert::ConversionReport report = FinishOf(Whole()).Run();
    EXPECT_EQ(report.outcome, Outcome::kConverted);
    EXPECT_EQ(report.kept_files, kFiles);
    ExpectFinished();
  }
}

TEST_P(WeightDeltasJobTest, FinishNamesThePartThatIsMissing) {
  PartOf(Whole(), 1).Run();
  const Error error = ErrorOf([&] { FinishOf(Whole()).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("part 0/2"));
}

TEST_P(WeightDeltasJobTest, ARunThatGoesOnKeepsWhatIsComplete) {
  Interrupt(Whole());
  const convert::ConversionReport report = Whole().Run();
  EXPECT_TRUE(report.resumed);
  EXPECT_GT(report.kept_files, 0U);
  ExpectFinished();
}

TEST_P(WeightDeltasJobTest, ProcessesGiveWhatOneGives) {
  for (const std::size_t processes : {2U, 3U}) {
    SCOPED_TRACE(std::to_string(processes) + " processes");
    fs::remove_all(out_);
    ThreadGroup group(processes);
    const auto errors = group.Run([&](convert::WorkSharing& sharing) {
      Conversion conversion = Whole();
      conversion.request.run.sharing = &sharing;
      conversion.Run();
    });
    for (const auto& error : errors) EXPECT_FALSE(error) << error->message();
    ExpectFinished();
  }
}

TEST_P(WeightDeltasJobTest, AProcessThatFailsLeavesWhatTheSameCommandContinues) {
  bool failed = true;
  for (std::size_t change = 0; failed && change < 50; change += Stride(5)) {
    SCOPED_TRACE(change);
    fs::remove_all(out_);
    ThreadGroup group(2);
    const auto errors = group.Run([&](convert::WorkSharing& sharing) {
      Conversion conversion = Whole();
      conversion.request.run.sharing = &sharing;
      QuickFileSystem quick;
      FaultyFileSystem faulty(quick, sharing.process() == 1 ? change : SIZE_MAX, EIO,
                              FaultyFileSystem::Failing::kFromThenOn);
      conversion.Run(faulty);
    });
    failed = errors[1].has_value();
    if (failed) {
      EXPECT_EQ(errors[1]->code(), ErrorCode::kIo) << errors[1]->message();
    }
    ExpectNothingHalfDone(TreeOrNothing(out_), {expected_});
    Whole().Run();
    ExpectFinished();
    if (HasFailure()) return;
  }
}

// Whatever change it is that fails: of a disk that is full, and of one that is read-only.
TEST_P(WeightDeltasJobTest, AFailingDiskIsAnIoErrorAndTheSameCommandContinues) {
  for (const int trouble : {ENOSPC, EROFS}) {
    std::size_t failures = 0;
    for (bool failed = true; failed; failures += Stride(5)) {
      SCOPED_TRACE(failures);
      fs::remove_all(out_);
      QuickFileSystem quick;
      FaultyFileSystem faulty(quick, failures, trouble, FaultyFileSystem::Failing::kFromThenOn);
      failed = false;
      try {
        Whole().Run(faulty);
      } catch (const Error& error) {
        failed = true;
        EXPECT_EQ(error.code(), ErrorCode::kIo) << error.message();
        EXPECT_THAT(error.message(),
                    HasSubstr(trouble == ENOSPC ? "free some space" : "mounted read-only"));
      }
      ExpectNothingHalfDone(TreeOrNothing(out_), {expected_});
      Whole().Run();
      ExpectFinished();
      if (HasFailure()) return;
    }
    EXPECT_GT(failures, 30U);
  }
}

// An overwrite of more bytes than memory holds waits in files without names, on the same disk.
TEST_P(WeightDeltasJobTest, AFullDiskWhileManyChangesWaitIsAnIoErrorAndTheSameCommandContinues) {
  TinyCheckpoint before;
  before.config = TinyConfig();
  before.Add(kTinyShard1, "w", formats::Dtype::kU8, {convert::ChangedBytes::kMostKept + 1});
  TinyCheckpoint after = before;
  for (char& byte : after.Find("w").bytes) byte = static_cast<char>(byte ^ 1);
  for (const auto& [checkpoint, directory] : {std::pair(before, base_), std::pair(after, in_)}) {
    fs::remove_all(directory);
    checkpoint.Write(directory);
  }
  fs::remove_all(dir_ / "expected");
  Pack(in_, dir_ / "expected").Run();
  expected_ = ReadTree(dir_ / "expected");
  std::size_t of_scratch = 0;
  bool failed = true;
  for (std::size_t failures = 0; failed; ++failures) {
    SCOPED_TRACE(failures);
    fs::remove_all(out_);
    QuickFileSystem quick;
    FaultyFileSystem full(quick, failures, ENOSPC, FaultyFileSystem::Failing::kFromThenOn);
    failed = false;
    try {
      Whole().Run(full);
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.code(), ErrorCode::kIo) << error.message();
      EXPECT_THAT(error.message(), HasSubstr("free some space"));
      of_scratch += error.message().find("scratch") != std::string::npos ? 1 : 0;
    }
    ExpectNothingHalfDone(TreeOrNothing(out_), {expected_});
    Whole().Run();
    ExpectFinished();
    if (HasFailure()) return;
  }
  EXPECT_EQ(of_scratch, GetParam() ? 6U : 0U);  // of two files: made, appended to, cleared
}

TEST_P(WeightDeltasJobTest, OutputOfAnotherJobIsRefused) {
  Conversion(base_, out_, convert::Fp8ToBf16Conversion()).Run();
  EXPECT_THAT(Refusal(Whole(), ErrorCode::kUsage).message(), HasSubstr("of another command"));
  Conversion over = Whole();
  over.request.run.overwrite = true;
  over.Run();
  for (const auto& [name, content] : expected_) EXPECT_TRUE(ReadFile(out_ / name) == content);
}

TEST_P(WeightDeltasJobTest, OtherVersionsAndEncodingsAreRefused) {
  const Conversion other_encoding(in_, out_,
                                  convert::PackConversion({.base = base_,
                                                           .form = convert::PackForm::kPullWeights,
                                                           .weight_version = 7,
                                                           .idempotent = !GetParam()}));
  const auto expect_refused = [&] {
    EXPECT_THAT(Refusal(Pack(in_, out_, 8), ErrorCode::kUsage).message(),
                HasSubstr("--weight-version"));
    EXPECT_THAT(Refusal(other_encoding, ErrorCode::kUsage).message(), HasSubstr("--idempotent"));
  };
  Interrupt(Whole());
  expect_refused();
  Whole().Run();
  expect_refused();
  ExpectFinished();
}

TEST_P(WeightDeltasJobTest, ABaseThatChangedIsRefused) {
  const auto expect_refused = [&] {
    TinyCheckpoint other = SmallFp8Checkpoint();
    other.Find("d.weight").bytes[0] = static_cast<char>(other.Find("d.weight").bytes[0] ^ 1);
    const auto times = FileTimes(base_);
    other.Write(base_);
    Refusal(Whole(), ErrorCode::kBadInput);
    SmallFp8Checkpoint().Write(base_);
    RestoreFileTimes(base_, times);
  };
  Interrupt(Whole());
  expect_refused();
  Whole().Run();
  ExpectFinished();
}

TEST_P(WeightDeltasJobTest, AFinishedOutputLeavesNothingToDo) {
  Whole().Run();
  const std::string before = Listing();
  for (const Conversion& command : {Whole(), PartOf(Whole(), 1), FinishOf(Whole())}) {
    EXPECT_EQ(command.Run().outcome, Outcome::kNothingToDo);
  }
  EXPECT_EQ(Listing(), before);
}

TEST_P(WeightDeltasJobTest, PlacesAndOptionsThatDoNotFit) {
  for (const fs::path& output : {in_, in_ / "deltas", base_, base_ / "deltas"}) {
    EXPECT_EQ(ErrorOf([&] { Pack(in_, output).Run(); }).code(), ErrorCode::kUsage) << output;
  }
  EXPECT_FALSE(fs::exists(base_ / "deltas"));
  Conversion deleting = Whole();
  deleting.request.run.delete_source_shards = true;
  EXPECT_THAT(Refusal(deleting, ErrorCode::kUsage).message(),
              HasSubstr("base of the next version"));
  Conversion plan = Whole();
  plan.request.run.dry_run = true;
  EXPECT_EQ(plan.Run().outcome, Outcome::kPlanned);
  EXPECT_FALSE(fs::exists(out_));
}

INSTANTIATE_TEST_SUITE_P(Encodings, WeightDeltasJobTest, ::testing::Bool());

}  // namespace
}  // namespace dsv3::testing

// Conversions that fail or are stopped somewhere, and are run again.

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/runner.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::Conversion;
using testing::FaultyFileSystem;
using ::testing::HasSubstr;
using testing::QuickFileSystem;
using testing::ReadTree;

class ResumeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(dir_ / "in");
    Conversion(dir_ / "in", dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Command() const {
    Conversion conversion(dir_ / "in", out_);
    conversion.request.run.checksum = checksum_;
    return conversion;
  }

  // Fails from the given change on; returns whether the run came that far.
  bool FailAt(std::size_t change, int errno_value, FaultyFileSystem::Failing failing) {
    FaultyFileSystem faulty(quick_, change, errno_value, failing);
    try {
      Command().Run(faulty);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo) << error.message();
      EXPECT_THAT(error.message(), HasSubstr(dir_.path().string()));
      EXPECT_FALSE(error.place().file.empty()) << error.message();
      EXPECT_THAT(error.message(), HasSubstr(std::strerror(errno_value)));
      return true;
    }
    return false;
  }

  // Interrupts a run when the second shard is in place and the index is not.
  void InterruptLate() {
    for (std::size_t change = 0;
         !fs::exists(out_ / testing::kTinyShard1) || !fs::exists(out_ / testing::kTinyShard2);
         ++change) {
      ASSERT_TRUE(FailAt(change, EIO, FaultyFileSystem::Failing::kFromThenOn));
    }
    ASSERT_FALSE(fs::exists(out_ / "model.safetensors.index.json"));
  }

  std::uint64_t ShardsInPlace() const {
    std::uint64_t count = 0;
    for (const auto& [name, content] : ReadTree(out_)) count += name.ends_with(".safetensors");
    return count;
  }

  void ExpectWhole() {
    Command().Run();
    EXPECT_EQ(ReadTree(out_), expected_);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  const fs::path out_ = dir_ / "out";
  ChecksumMode checksum_ = ChecksumMode::kSha256;
  std::map<std::string, std::string> expected_;
  QuickFileSystem quick_;
};

class FaultTest : public ResumeTest, public ::testing::WithParamInterface<int> {};

TEST_P(FaultTest, AnyFailingChangeIsAnIoErrorAndTheSameCommandGoesOn) {
  for (const auto failing :
       {FaultyFileSystem::Failing::kOnce, FaultyFileSystem::Failing::kFromThenOn}) {
    for (std::size_t change = 0;; change += testing::Stride(5)) {
      SCOPED_TRACE(change);
      fs::remove_all(out_);
      if (!FailAt(change, GetParam(), failing)) {
        EXPECT_GT(change, 50U);
        break;
      }
      ExpectWhole();
      if (HasFailure()) return;
    }
  }
}

TEST_P(FaultTest, AJobThatFailsAgainAndAgainEndsWhole) {
  // One step further with each run.
  std::size_t change = 0;
  while (FailAt(change, GetParam(), FaultyFileSystem::Failing::kFromThenOn)) ++change;
  EXPECT_GT(change, 10U);
  EXPECT_EQ(ReadTree(out_), expected_);
}

INSTANTIATE_TEST_SUITE_P(Errnos, FaultTest, ::testing::Values(ENOSPC, EIO, EROFS),
                         [](const auto& param) {
                           return std::string(param.param == ENOSPC ? "NoSpace"
                                              : param.param == EIO  ? "DiskError"
                                                                    : "ReadOnly");
                         });

// Requests a stop at one of the calls.
class StoppingSink final : public ProgressSink {
 public:
  StoppingSink(std::size_t at, StopToken& stop) : at_(at), stop_(stop) {}
  void OnPhase(std::string_view, std::uint64_t) override { Count(); }
  void OnBytes(std::uint64_t, std::string_view) override { Count(); }
  bool reached() const { return calls_ > at_; }

 private:
  void Count() {
    if (calls_++ == at_) stop_.RequestStop();
  }
  const std::size_t at_;
  StopToken& stop_;
  std::atomic<std::size_t> calls_ = 0;
};

TEST_F(ResumeTest, AStopAtAnyMomentLeavesWhatTheSameCommandContinues) {
  std::size_t interrupted = 0;
  for (std::size_t at = 0;; ++at) {
    SCOPED_TRACE(at);
    fs::remove_all(out_);
    StopToken stop;
    StoppingSink sink(at, stop);
    try {
      RunConversion(Fp8ToBf16Conversion(), Command().request, quick_, sink, stop);
      if (!sink.reached()) break;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInterrupted) << error.message();
      EXPECT_FALSE(fs::exists(out_ / kManifestName));
      EXPECT_FALSE(fs::exists(out_ / "model.safetensors.index.json"));
      ++interrupted;
    }
    ExpectWhole();
    ASSERT_LT(at, 1000U);
  }
  EXPECT_GT(interrupted, 5U);
}

TEST_F(ResumeTest, KeptFilesAreReportedAndNotMadeAgain) {
  InterruptLate();
  const std::uint64_t in_place = ShardsInPlace();
  const auto time = fs::last_write_time(out_ / testing::kTinyShard1);
  const ConversionReport report = Command().Run();
  EXPECT_TRUE(report.resumed);
  EXPECT_EQ(report.kept_files, in_place);
  EXPECT_EQ(fs::last_write_time(out_ / testing::kTinyShard1), time);
  EXPECT_EQ(ReadTree(out_), expected_);
  // Known from the journal, though this run did not see them.
  const ConversionReport whole = Conversion(dir_ / "in", dir_ / "whole").Run();
  ASSERT_EQ(report.nan_codes.size(), whole.nan_codes.size());
  for (std::size_t i = 0; i < whole.nan_codes.size(); ++i) {
    EXPECT_EQ(report.nan_codes[i].tensor, whole.nan_codes[i].tensor);
    EXPECT_EQ(report.nan_codes[i].count, whole.nan_codes[i].count);
  }
  ASSERT_FALSE(report.nan_codes.empty());
  EXPECT_EQ(report.nan_codes[0].tensor, "a.weight");
}

TEST_F(ResumeTest, ADamagedKeptFileIsToldAndMadeAgain) {
  for (const ChecksumMode checksum : {ChecksumMode::kSha256, ChecksumMode::kNone}) {
    checksum_ = checksum;
    fs::remove_all(dir_ / "expected");
    Conversion whole = Command();
    whole.request.output = dir_ / "expected";
    whole.Run();
    expected_ = ReadTree(dir_ / "expected");
    for (const char* name : {testing::kTinyShard1, "README.md"}) {
      fs::remove_all(out_);
      InterruptLate();
      std::string content = testing::ReadFile(out_ / name);
      content[content.size() / 2] ^= 1;
      testing::WriteFile(out_ / name, content);
      testing::WarningSink sink;
      const ConversionReport report = Command().Run(quick_, sink);
      EXPECT_THAT(sink.warnings(),
                  ::testing::Contains(AllOf(HasSubstr(name), HasSubstr("it is made again"))));
      EXPECT_EQ(ReadTree(out_), expected_);
      // What is shown is in the report, too.
      std::vector<std::string> reported;
      for (const formats::Finding& warning : report.warnings) reported.push_back(warning.message);
      EXPECT_EQ(reported, sink.warnings());
      EXPECT_EQ(report.warnings.back().kind, "remade-file");
      EXPECT_EQ(report.warnings.back().file, name);
    }
  }
}

TEST_F(ResumeTest, AKeptFileThatGrewOrShrankIsMadeAgain) {
  for (const int change : {-1, 1}) {
    fs::remove_all(out_);
    InterruptLate();
    const fs::path shard = out_ / testing::kTinyShard1;
    fs::resize_file(shard, fs::file_size(shard) + static_cast<std::uintmax_t>(change));
    const std::uint64_t in_place = ShardsInPlace();
    EXPECT_EQ(Command().Run().kept_files, in_place - 1);
    EXPECT_EQ(ReadTree(out_), expected_);
  }
}

TEST_F(ResumeTest, ManifestBearsNoMarkOfThreadsMemoryOrPlace) {
  Conversion conversion = Command();
  conversion.request.output = dir_ / "another" / "place";
  conversion.request.run.threads = 5;
  conversion.request.run.memory_bytes = 9 << 20;
  conversion.Run();
  EXPECT_EQ(ReadTree(dir_ / "another" / "place"), expected_);
}

}  // namespace
}  // namespace dsv3::convert

// Runs that make selected files only, and a closing file that tells of all.

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/manifest.h"
#include "convert/job/run_plan.h"
#include "convert/model/config_edit.h"
#include "convert/open/open_model.h"
#include "convert/recipes/check_scales.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/side_files.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/thread_sharing.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ReadTree;
using Files = std::vector<std::size_t>;
using Outcome = ConversionReport::Outcome;

constexpr char kClosing[] = "layout.json";
constexpr char kIndex[] = "model.safetensors.index.json";

class SelectedFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(in_);
    out_ = dir_ / "expected";
    Run(std::nullopt);
    expected_ = ReadTree(out_);
    out_ = dir_ / "out";
  }

  ConversionReport Run(const std::optional<Files>& selected, const RunOptions& run = OneThread()) {
    return Run(selected, run, quick_);
  }
  ConversionReport Run(const std::optional<Files>& selected, const RunOptions& run,
                       formats::FileSystem& file_system) {
    const OpenedModel source = OpenModel(in_);
    const std::vector<ScaledWeight> pairs = PairScales(source.catalog, source.config);
    Plan plan = PlanFp8ToBf16(source.catalog, pairs, {}, source.needs_index);
    PlanSideFiles(source, ConfigForBf16(source.config_text, source.config, plan.removed_config), {},
                  plan);
    RecipeHooks hooks;
    ProgressSink progress;
    const StopToken stop;
    hooks.preflight = [&](const PreflightRun& preflight) {
      SideDigests digests;
      const ScaleCheck check =
          CheckScales(source.catalog, pairs, false, false, preflight.sources, progress, stop);
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        digests.emplace(pairs[i].scale, check.digests[i]);
      }
      return digests;
    };
    hooks.closing_name = kClosing;
    hooks.closing_text = [&](const FileRecords& records, const std::string& fingerprint) {
      std::string text = fingerprint + "\n";
      for (const PlannedFile& file : plan.files) {
        text += fmt::format("{} {}\n", file.name, records.at(file.name).file.sha256);
      }
      return text;
    };
    hooks.selected = selected;
    return RunPlan(TensorsOf(source), plan, out_, run, hooks, {}, file_system, progress, stop);
  }

  static RunOptions OneThread() {
    RunOptions run;
    run.threads = 1;
    return run;
  }

  void ExpectFinished() { EXPECT_TRUE(ReadTree(out_) == expected_); }
  bool Exists(const std::string& name) const { return fs::exists(out_ / name); }

  testing::TempDir dir_;
  fs::path in_ = dir_ / "in";
  fs::path out_;
  std::map<std::string, std::string> expected_;
  testing::QuickFileSystem quick_;
};

TEST_F(SelectedFilesTest, TheClosingFileTellsOfAllAndStandsInTheManifest) {
  EXPECT_THAT(expected_.at(kClosing), HasSubstr(testing::kTinyShard3));
  const std::optional<ManifestSummary> manifest = ReadManifest(dir_ / "expected");
  ASSERT_TRUE(manifest);
  std::set<std::string> names;
  for (const formats::ManifestFile& file : manifest->files) names.insert(file.name);
  EXPECT_EQ(names.count(kClosing), 1U);
}

TEST_F(SelectedFilesTest, TheRunAfterWhichNothingIsMissingEndsTheJob) {
  const ConversionReport first = Run(Files{1});
  EXPECT_EQ(first.outcome, Outcome::kPartDone);
  EXPECT_EQ(first.missing_files, 2U);
  ASSERT_EQ(first.files.size(), 1U);
  EXPECT_EQ(first.files[0].name, testing::kTinyShard2);
  EXPECT_TRUE(Exists(testing::kTinyShard2));
  EXPECT_TRUE(Exists("config.json"));
  for (const char* name :
       {testing::kTinyShard1, testing::kTinyShard3, kIndex, kClosing, "checkpoint.manifest.json"}) {
    EXPECT_FALSE(Exists(name)) << name;
  }
  const ConversionReport second = Run(Files{2, 1});
  EXPECT_EQ(second.outcome, Outcome::kPartDone);
  EXPECT_EQ(second.missing_files, 1U);
  EXPECT_EQ(second.kept_files, 1U);
  const ConversionReport third = Run(Files{0});
  EXPECT_EQ(third.outcome, Outcome::kConverted);
  EXPECT_EQ(third.missing_files, 0U);
  EXPECT_EQ(third.files.size(), 3U);
  EXPECT_EQ(third.kept_files, 2U);
  ExpectFinished();
  EXPECT_EQ(Run(Files{1}).outcome, Outcome::kNothingToDo);
  EXPECT_EQ(Run(std::nullopt).outcome, Outcome::kNothingToDo);
}

TEST_F(SelectedFilesTest, ReadsOnlyWhatTheSelectedFilesNeed) {
  const std::uint64_t all = Run(std::nullopt).bytes_read;
  fs::remove_all(out_);
  const std::uint64_t one = Run(Files{2}).bytes_read;
  EXPECT_LT(one, all);
  // What is there already is not read again for another file.
  const std::uint64_t other = Run(Files{1}).bytes_read;
  EXPECT_LT(one + other, 2 * all);
}

TEST_F(SelectedFilesTest, ARunOfAllDoesTheRest) {
  Run(Files{2});
  const ConversionReport report = Run(std::nullopt);
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  EXPECT_EQ(report.kept_files, 1U);
  ExpectFinished();
}

TEST_F(SelectedFilesTest, DamageIsFoundByWhoEndsTheJob) {
  Run(Files{0});
  std::string content = testing::ReadFile(out_ / testing::kTinyShard1);
  content.back() ^= 1;
  testing::WriteFile(out_ / testing::kTinyShard1, content);
  // Not its matter.
  EXPECT_EQ(Run(Files{1}).outcome, Outcome::kPartDone);
  EXPECT_TRUE(testing::ReadFile(out_ / testing::kTinyShard1) == content);
  const ConversionReport last = Run(Files{2});
  EXPECT_EQ(last.outcome, Outcome::kConverted);
  EXPECT_EQ(last.kept_files, 1U);
  ExpectFinished();
}

TEST_F(SelectedFilesTest, ALostFileOfAnotherRunIsMissingAgain) {
  Run(Files{0});
  fs::remove(out_ / testing::kTinyShard1);
  const ConversionReport report = Run(Files{1, 2});
  EXPECT_EQ(report.outcome, Outcome::kPartDone);
  EXPECT_EQ(report.missing_files, 1U);
  Run(Files{0});
  ExpectFinished();
}

TEST_F(SelectedFilesTest, AFinishedOutputWithoutItsClosingFileIsNotFinished) {
  Run(std::nullopt);
  fs::remove(out_ / kClosing);
  const Error error = testing::ErrorOf([&] { Run(Files{0}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("layout.json is missing"));
  RunOptions overwrite = OneThread();
  overwrite.overwrite = true;
  EXPECT_EQ(Run(std::nullopt, overwrite).outcome, Outcome::kConverted);
  ExpectFinished();
}

TEST_F(SelectedFilesTest, GoesOnAfterAFailureAnywhere) {
  bool failed = true;
  for (std::size_t change = 0; failed; ++change) {
    SCOPED_TRACE("change " + std::to_string(change));
    fs::remove_all(out_);
    Run(Files{0, 1});
    testing::FaultyFileSystem faulty(quick_, change, EIO,
                                     testing::FaultyFileSystem::Failing::kFromThenOn);
    failed = testing::ErrorOf([&] { Run(Files{2}, OneThread(), faulty); }).code() == ErrorCode::kIo;
    Run(Files{2});
    ExpectFinished();
    if (HasFailure()) return;
  }
}

TEST_F(SelectedFilesTest, OptionsThatDoNotGoWithItAreRefused) {
  RunOptions run = OneThread();
  run.part = RunOptions::Part{0, 2};
  EXPECT_THAT(testing::ErrorOf([&] { Run(Files{0}, run); }).message(),
              HasSubstr("--ranks does not go with --part"));
  run = OneThread();
  run.finish = true;
  EXPECT_EQ(testing::ErrorOf([&] { Run(Files{0}, run); }).code(), ErrorCode::kUsage);
  run = OneThread();
  run.delete_source_shards = true;
  EXPECT_THAT(testing::ErrorOf([&] { Run(Files{0}, run); }).message(),
              HasSubstr("--ranks does not go with --delete-source-shards"));
}

TEST_F(SelectedFilesTest, ProcessesShareASelection) {
  testing::ThreadGroup group(2);
  const auto errors = group.Run([&](WorkSharing& sharing) {
    RunOptions run = OneThread();
    run.sharing = &sharing;
    Run(Files{0, 2}, run);
  });
  for (const std::optional<Error>& error : errors) EXPECT_FALSE(error) << error->message();
  EXPECT_TRUE(Exists(testing::kTinyShard1) && Exists(testing::kTinyShard3));
  EXPECT_FALSE(Exists(kClosing));
  Run(Files{1});
  ExpectFinished();
}

TEST_F(SelectedFilesTest, PartsCloseWithFinish) {
  for (const std::uint64_t index : {0U, 1U}) {
    RunOptions run = OneThread();
    run.part = RunOptions::Part{index, 2};
    Run(std::nullopt, run);
    EXPECT_FALSE(Exists(kClosing));
  }
  RunOptions run = OneThread();
  run.finish = true;
  EXPECT_EQ(Run(std::nullopt, run).outcome, Outcome::kConverted);
  ExpectFinished();
}

}  // namespace
}  // namespace dsv3::convert

// A conversion that reads a second checkpoint beside the one that it converts.

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/disk_space.h"
#include "convert/job/run_plan.h"
#include "convert/job/source_release.h"
#include "convert/job/source_use.h"
#include "formats/error.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/panel_expression.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using ::testing::HasSubstr;
using testing::QuickFileSystem;

constexpr char kShard[] = "model.safetensors";

class TwoSourcesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::TinyCheckpoint input;
    input.has_index = false;
    input.Add(kShard, "w", Dtype::kBF16, {40, 30});
    input.Write(dir_ / "in");
    testing::TinyCheckpoint original;
    original.has_index = false;
    // The same name, shard and position, and something else.
    original.Add(kShard, "w", Dtype::kF32, {4, 2}).bytes =
        testing::ExpectedPanels(input.Find("w").bytes, 40, 30, {0, 10, 16, {}}).sums;
    original.Write(dir_ / "original");
  }

  // Plans anew, as every command does.
  void MakePlan() {
    Catalog catalog = testing::CatalogOf(dir_ / "in");
    catalog.Append(testing::CatalogOf(dir_ / "original"), "scales-from");
    source_.emplace();
    source_->directory = dir_ / "in";
    source_->catalog = std::move(catalog);
    const Catalog& both = source_->catalog;
    testing::PanelExpressions made =
        testing::MakePanels(both, {both.Find("w"), 10, 16, both.FindAppended("w")});
    NamedExpressions tensors;
    tensors.emplace_back("w", std::move(made.value));
    tensors.emplace_back("w_sums", std::move(made.sums));
    plan_ = {};
    plan_.recipe = "panels";
    plan_.files.push_back(PlanFile(kShard, std::move(tensors)));
  }

  ConversionReport Run(formats::FileSystem& file_system) {
    MakePlan();
    ProgressSink progress;
    const StopToken stop;
    const Digests side_digests = {"5a", ""};
    RecipeHooks hooks;
    hooks.preflight = [&](const PreflightRun& run) {
      EXPECT_TRUE(run.known.empty());
      return SideDigests{{source_->catalog.FindAppended("w"), side_digests}};
    };
    return RunPlan(TensorsOf(*source_), plan_, dir_ / "out", run_, hooks, {}, file_system, progress,
                   stop);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  QuickFileSystem quick_;
  std::optional<OpenedModel> source_;
  Plan plan_;
  RunOptions run_;
};

TEST_F(TwoSourcesTest, OnlyShardsOfTheConvertedOneAreFreed) {
  run_.delete_source_shards = true;
  const ConversionReport report = Run(quick_);
  EXPECT_EQ(report.freed_source_shards, 1U);
  EXPECT_FALSE(fs::exists(dir_ / "in" / kShard));
  EXPECT_TRUE(fs::exists(dir_ / "original" / kShard));
}

TEST_F(TwoSourcesTest, OnlyShardsOfTheConvertedOneGiveTheirSpaceBack) {
  MakePlan();
  const Catalog& catalog = source_->catalog;
  const SourceUse use({catalog, {}, {}});
  EXPECT_EQ(use.FilesOf(plan_.files[0]), (std::vector<std::uint32_t>{0}));
  EXPECT_EQ(use.CountNeeds(plan_)[1], 0U);
}

TEST_F(TwoSourcesTest, AChangeOfTheSecondOneIsSeenWhenARunContinues) {
  // Ends with the manifest.
  std::size_t changes = 0;
  {
    testing::FaultyFileSystem count(quick_, SIZE_MAX, EIO);
    Run(count);
    changes = count.changes();
    fs::remove_all(dir_ / "out");
  }
  testing::FaultyFileSystem faulty(quick_, changes - 4, EIO);
  EXPECT_EQ(testing::ErrorOf([&] { Run(faulty); }).code(), ErrorCode::kIo);
  ASSERT_TRUE(fs::exists(dir_ / "out" / kJournalName));
  const fs::path shard = dir_ / "original" / kShard;
  const fs::file_time_type time = fs::last_write_time(shard);
  fs::last_write_time(shard, time + std::chrono::seconds(1));
  const Error error = testing::ErrorOf([&] { Run(quick_); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("model.safetensors of --scales-from was modified"));
  fs::last_write_time(shard, time);
  EXPECT_TRUE(Run(quick_).resumed);
}

TEST_F(TwoSourcesTest, MessagesTellTheFilesApart) {
  MakePlan();
  const fs::path shard = dir_ / "original" / kShard;
  fs::last_write_time(shard, fs::last_write_time(shard) + std::chrono::seconds(1));
  SourceFiles sources(source_->catalog);
  EXPECT_NO_THROW(sources.Get(0));
  const Error error = testing::ErrorOf([&] { sources.Get(1); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(shard.string()));
}

}  // namespace
}  // namespace dsv3::convert

// Cuts the power after every change while files with by-products are made, and continues.

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/job/run_plan.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/panel_expression.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using testing::Panels;
using testing::TinyCheckpoint;

// File "a" ends with its sums, "b" begins with them, and those of "c" are foretold, one wrongly.
TinyCheckpoint Checkpoint() {
  TinyCheckpoint checkpoint;
  checkpoint.Add("a", "a.w", Dtype::kBF16, {90, 50});
  checkpoint.Add("a", "a.copied", Dtype::kBF16, {2002});
  checkpoint.Add("b", "b.w", Dtype::kBF16, {33, 101});
  checkpoint.Add("b", "b.v", Dtype::kBF16, {8, 700});
  checkpoint.Add("c", "c.w", Dtype::kBF16, {70, 80});
  checkpoint.Add("d", "foretold", Dtype::kF32, {7, 5}).bytes =
      testing::ExpectedPanels(checkpoint.Find("c.w").bytes, 70, 80, {0, 10, 16, {}}).sums;
  checkpoint.Find("foretold").bytes[40] ^= 1;
  return checkpoint;
}

// A run of one plan with the checkpoint in `root`/in.
class PanelRun {
 public:
  explicit PanelRun(const fs::path& root, bool sha256) : output_(root / "out") {
    source_.emplace();
    source_->directory = root / "in";
    source_->catalog = testing::CatalogOf(root / "in");
    run_.threads = 2;
    run_.checksum = sha256 ? ChecksumMode::kSha256 : ChecksumMode::kNone;
    const Catalog& catalog = source_->catalog;
    plan_.recipe = "panels";
    for (const char* const shard : {"a", "b", "c"}) {
      NamedExpressions tensors;
      for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
        const CatalogTensor& tensor = catalog.tensors()[i];
        if (tensor.name[0] != shard[0]) continue;
        if (tensor.name == "a.copied") {
          tensors.emplace_back(tensor.name, Copy(catalog, i));
          continue;
        }
        Panels panels = {i, 10, 16, {}};
        if (tensor.name == "c.w") panels.expected_sums = catalog.Find("foretold");
        testing::PanelExpressions made = testing::MakePanels(catalog, panels);
        tensors.emplace_back(tensor.name, std::move(made.value));
        tensors.emplace_back(tensor.name + ".sums", std::move(made.sums));
      }
      plan_.files.push_back(PlanFile(std::string(shard) + ".safetensors", std::move(tensors)));
    }
    plan_.index = PlanIndex(plan_);
  }

  ConversionReport Run(formats::FileSystem& file_system) {
    ProgressSink progress;
    const StopToken stop;
    RecipeHooks hooks;
    hooks.preflight = [this](const PreflightRun& run) {
      to_make_.assign(run.to_make.begin(), run.to_make.end());
      return SideDigests();
    };
    return RunPlan(TensorsOf(*source_), plan_, output_, run_, hooks, {}, file_system, progress,
                   stop);
  }

  const std::vector<std::size_t>& to_make() const { return to_make_; }

 private:
  fs::path output_;
  std::optional<OpenedModel> source_;
  RunOptions run_;
  Plan plan_;
  std::vector<std::size_t> to_make_;
};

class ByProductCrashTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    TinyCheckpoint checkpoint = Checkpoint();
    checkpoint.Write(temp_ / "live" / "in");
    in_times_ = testing::FileTimes(temp_ / "live" / "in");
    fs::create_directories(temp_ / "whole" / "in");
    fs::copy(temp_ / "live" / "in", temp_ / "whole" / "in");
    testing::RestoreFileTimes(temp_ / "whole" / "in", in_times_);
    expected_report_ = PanelRun(temp_ / "whole", GetParam()).Run(quick_);
    expected_ = testing::ReadTree(temp_ / "whole" / "out");
  }

  static void ExpectSameQuality(const ConversionReport& report, const ConversionReport& expected) {
    ASSERT_EQ(report.quality.size(), expected.quality.size());
    for (std::size_t i = 0; i < expected.quality.size(); ++i) {
      EXPECT_EQ(report.quality[i].tensor, expected.quality[i].tensor);
      const quant::Quality& a = report.quality[i].quality;
      const quant::Quality& b = expected.quality[i].quality;
      EXPECT_EQ(a.elements, b.elements);
      EXPECT_EQ(a.blocks, b.blocks);
      EXPECT_EQ(a.max_abs_error, b.max_abs_error);
      EXPECT_EQ(a.sum_squared_error, b.sum_squared_error);
      EXPECT_EQ(a.sum_squares, b.sum_squares);
    }
  }

  testing::TempDir temp_{testing::MemoryDirectory()};
  testing::QuickFileSystem quick_;
  std::map<std::string, fs::file_time_type> in_times_;
  std::map<std::string, std::string> expected_;
  ConversionReport expected_report_;
};

INSTANTIATE_TEST_SUITE_P(Checksum, ByProductCrashTest, ::testing::Bool());

TEST_P(ByProductCrashTest, MakesWhatTheExpressionsSay) {
  EXPECT_EQ(expected_report_.quality.size(), 4U);
  const TinyCheckpoint checkpoint = Checkpoint();
  for (const char* const name : {"a", "b", "c"}) {
    const std::string& content = expected_.at(std::string(name) + ".safetensors");
    const formats::SafetensorsHeader header =
        formats::ParseSafetensorsHeader(testing::AsBytes(content), content.size(), name);
    for (const formats::SafetensorsTensor& tensor : header.tensors) {
      if (!tensor.name.ends_with(".sums")) continue;
      const std::string weight = tensor.name.substr(0, 3);
      TinyCheckpoint copy = checkpoint;
      const testing::TinyTensor& source = copy.Find(weight);
      const testing::PanelResult made =
          testing::ExpectedPanels(source.bytes, source.shape[0], source.shape[1], {0, 10, 16, {}});
      EXPECT_TRUE(content.substr(header.data_offset + tensor.begin, tensor.end - tensor.begin) ==
                  made.sums)
          << tensor.name;
    }
  }
}

TEST_P(ByProductCrashTest, RecoversFromEveryPowerCut) {
  testing::RecordingFileSystem recorder(quick_, temp_ / "live");
  PanelRun(temp_ / "live", GetParam()).Run(recorder);
  std::set<testing::Tree> seen;
  std::set<std::size_t> left_to_make;
  testing::ForEachCrash(recorder, temp_ / "state", in_times_, seen, [&](const fs::path& state) {
    PanelRun again(state, GetParam());
    const ConversionReport report = again.Run(quick_);
    ASSERT_EQ(testing::ReadTree(state / "out"), expected_);
    if (report.outcome == ConversionReport::Outcome::kNothingToDo) return;
    left_to_make.insert(again.to_make().size());
    ExpectSameQuality(report, expected_report_);
  });
  // The preflight is told what is left: all, some or none of the three files.
  EXPECT_EQ(left_to_make, (std::set<std::size_t>{0, 1, 2, 3}));
}

TEST_P(ByProductCrashTest, RecoversFromEveryFailingChange) {
  for (std::size_t fail_at = 0;; ++fail_at) {
    const fs::path state = temp_ / "state";
    fs::remove_all(state);
    fs::create_directories(state / "in");
    fs::copy(temp_ / "live" / "in", state / "in");
    testing::RestoreFileTimes(state / "in", in_times_);
    testing::FaultyFileSystem faulty(quick_, fail_at, EIO);
    try {
      PanelRun(state, GetParam()).Run(faulty);
      break;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
    }
    PanelRun(state, GetParam()).Run(quick_);
    ASSERT_EQ(testing::ReadTree(state / "out"), expected_) << "change " << fail_at << " failed";
    ASSERT_LT(fail_at, 500U);
  }
}

}  // namespace
}  // namespace dsv3::convert

// Runs that several processes share; here they are threads.

#include "convert/job/process_messages.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/manifest.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/thread_sharing.h"
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
using testing::ThreadGroup;
using Errors = std::vector<std::optional<Error>>;
using testing::Tree;
using Outcome = ConversionReport::Outcome;

class CountingSink : public ProgressSink {
 public:
  void OnPhase(std::string_view phase, std::uint64_t total_bytes) override {
    if (phase == "converting") total = total_bytes;
    converting = phase == "converting";
  }
  void OnBytes(std::uint64_t more, std::string_view) override {
    if (converting) bytes += more;
  }
  std::atomic<std::uint64_t> bytes{0};
  std::uint64_t total = 0;
  bool converting = false;
};

class SharedRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(in_);
    Whole(dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Whole(const fs::path& output) const {
    Conversion conversion(in_, output, kind_);
    configure_(conversion.request);
    return conversion;
  }

  // Runs the command in `processes` processes. `change` may spoil one.
  Errors Run(std::size_t processes,
             const std::function<void(std::size_t process, Conversion& conversion)>& change = {}) {
    ThreadGroup group(processes);
    reports_.assign(processes, ConversionReport());
    return group.Run([&](WorkSharing& sharing) {
      Conversion conversion = Whole(out_);
      conversion.request.run.sharing = &sharing;
      if (change) change(sharing.process(), conversion);
      testing::QuickFileSystem quick;
      testing::FaultyFileSystem faulty(
          quick, sharing.process() == failing_process_ ? failing_change_ : SIZE_MAX, EIO,
          testing::FaultyFileSystem::Failing::kFromThenOn);
      ProgressSink silent;
      ProgressSink& progress =
          sharing.process() == 0 ? static_cast<ProgressSink&>(progress_) : silent;
      reports_[sharing.process()] = conversion.Run(faulty, progress);
    });
  }

  static void ExpectAllEndWell(const Errors& errors) {
    for (const std::optional<Error>& error : errors) {
      EXPECT_FALSE(error) << error->message();
    }
  }

  void ExpectFinished() const { testing::ExpectSameTree(ReadTree(out_), expected_); }

  testing::TempDir dir_;
  fs::path in_ = dir_ / "in";
  fs::path out_ = dir_ / "out";
  Tree expected_;
  ConversionKind kind_ = Fp8ToBf16Conversion();
  std::function<void(JobRequest&)> configure_ = [](JobRequest&) {};
  std::size_t failing_process_ = SIZE_MAX;
  std::size_t failing_change_ = 0;
  CountingSink progress_;
  std::vector<ConversionReport> reports_;
};

TEST_F(SharedRunTest, AnyNumberOfProcessesGivesWhatOneGives) {
  for (const std::size_t processes : {1U, 2U, 3U, 7U}) {
    SCOPED_TRACE(std::to_string(processes) + " processes");
    fs::remove_all(out_);
    progress_.bytes = 0;
    ExpectAllEndWell(Run(processes));
    ExpectFinished();
    EXPECT_EQ(reports_[0].outcome, Outcome::kConverted);
    EXPECT_EQ(reports_[0].files.size(), 3U);
    EXPECT_EQ(progress_.bytes, progress_.total);
    std::uint64_t output_bytes = 0;
    for (const auto& [name, content] : expected_) {
      if (name != kManifestName) output_bytes += content.size();
    }
    EXPECT_EQ(reports_[0].bytes_written, output_bytes);
    const Conversion alone = Whole(dir_ / ("alone" + std::to_string(processes)));
    const ConversionReport report = alone.Run();
    EXPECT_EQ(reports_[0].nan_codes.size(), report.nan_codes.size());
    EXPECT_EQ(reports_[0].bytes_read >= report.bytes_read, true);
  }
}

TEST_F(SharedRunTest, ProcessesFindTheScalesOfTheirFiles) {
  // The way back to an original: scales that stand in other files than their weights are found in
  // a first pass over these.
  testing::TinyCheckpoint original = testing::SmallFp8Checkpoint();
  for (const char* name : {"c.weight_scale_inv", "d.weight_scale_inv"}) {
    const testing::TinyTensor scale = original.Find(name);
    original.tensors.erase(std::find_if(original.tensors.begin(), original.tensors.end(),
                                        [&](const auto& tensor) { return tensor.name == name; }));
    original.AddScale(scale.shard, scale.name, formats::Dtype::kF32, scale.shape);
  }
  original.Write(dir_ / "original");
  Conversion(dir_ / "original", dir_ / "bf16").Run();
  in_ = dir_ / "bf16";
  // One weight is edited, so that its scales are new.
  std::string content = testing::ReadFile(in_ / testing::kTinyShard1);
  content[content.size() - 3] = static_cast<char>(content[content.size() - 3] ^ 0x11);
  testing::WriteFile(in_ / testing::kTinyShard1, content);
  kind_ = Bf16ToFp8Conversion(
      {.nonfinite = quant::Nonfinite::kSaturate, .scales_from = dir_ / "original"});
  Whole(dir_ / "fp8").Run();
  expected_ = ReadTree(dir_ / "fp8");
  for (const std::size_t processes : {2U, 3U}) {
    fs::remove_all(out_);
    ExpectAllEndWell(Run(processes));
    ExpectFinished();
  }
}

TEST_F(SharedRunTest, AFinishedOutputLeavesNothingToDo) {
  ExpectAllEndWell(Run(2));
  const std::string before = testing::DetailedListing(out_);
  ExpectAllEndWell(Run(3));
  EXPECT_EQ(reports_[0].outcome, Outcome::kNothingToDo);
  EXPECT_EQ(testing::DetailedListing(out_), before);
}

TEST_F(SharedRunTest, ADryRunWritesNothing) {
  configure_ = [](JobRequest& request) { request.run.dry_run = true; };
  ExpectAllEndWell(Run(2));
  EXPECT_EQ(reports_[0].outcome, Outcome::kPlanned);
  EXPECT_FALSE(fs::exists(out_));
}

// Whichever process fails wherever: nothing half done is taken for the whole, and one process, or
// another number of them, goes on.
TEST_F(SharedRunTest, AFailureOfAnyProcessLeavesWhatTheSameCommandContinues) {
  for (std::size_t process = 0; process < 3; ++process) {
    bool failed = true;
    for (failing_change_ = 0; failed; ++failing_change_) {
      SCOPED_TRACE("process " + std::to_string(process) + " fails at change " +
                   std::to_string(failing_change_));
      fs::remove_all(out_);
      failing_process_ = process;
      const Errors errors = Run(3);
      failed = errors[process].has_value();
      if (failed) {
        EXPECT_EQ(errors[process]->code(), ErrorCode::kIo) << errors[process]->message();
        testing::ExpectNothingHalfDone(testing::TreeOrNothing(out_), {expected_});
      }
      for (std::size_t other = 0; other < 3; ++other) {
        if (other == process || !errors[other]) continue;
        EXPECT_EQ(errors[other]->code(), ErrorCode::kInterrupted) << errors[other]->message();
      }
      failing_process_ = SIZE_MAX;
      if (failing_change_ % 2 == 0) {
        ExpectAllEndWell(Run(2));
      } else {
        Whole(out_).Run();
      }
      ExpectFinished();
      if (HasFailure()) return;
      // A helper may find no file to make, and so no change to fail at.
      if (failing_change_ > 200) break;
    }
  }
}

TEST_F(SharedRunTest, AHelperThatSeesAnotherSourceIsRefused) {
  fs::copy(in_, dir_ / "other", fs::copy_options::recursive);
  const Errors errors = Run(2, [&](std::size_t process, Conversion& conversion) {
    if (process == 1) conversion.request.input = dir_ / "other";
  });
  ASSERT_TRUE(errors[1]);
  EXPECT_EQ(errors[1]->code(), ErrorCode::kBadInput);
  EXPECT_THAT(errors[1]->message(), HasSubstr("process 1 does not see the source that process 0"));
  EXPECT_THAT(errors[1]->message(), HasSubstr("was modified"));
}

TEST_F(SharedRunTest, AHelperThatSeesAnotherOutputIsRefused) {
  const Errors errors = Run(2, [&](std::size_t process, Conversion& conversion) {
    if (process == 1) conversion.request.output = dir_ / "local";
  });
  ASSERT_TRUE(errors[1]);
  EXPECT_EQ(errors[1]->code(), ErrorCode::kIo);
  EXPECT_THAT(errors[1]->message(), HasSubstr("does not see the directory that process 0 writes"));
  EXPECT_FALSE(fs::exists(dir_ / "local"));
}

TEST_F(SharedRunTest, OptionsThatDoNotGoWithItAreRefused) {
  configure_ = [](JobRequest& request) { request.run.part = RunOptions::Part{0, 2}; };
  for (const std::optional<Error>& error : Run(2)) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::kUsage);
    EXPECT_THAT(error->message(), HasSubstr("--part does not go with mpirun"));
  }
  configure_ = [](JobRequest& request) { request.run.delete_source_shards = true; };
  for (const std::optional<Error>& error : Run(2)) {
    ASSERT_TRUE(error);
    EXPECT_THAT(error->message(), HasSubstr("does not go with --delete-source-shards"));
  }
}

TEST_F(SharedRunTest, ReplacesAnotherJobWithOverwrite) {
  Conversion other = Whole(out_);
  other.request.run.tensor_sha256 = true;
  other.Run();
  configure_ = [](JobRequest& request) { request.run.overwrite = true; };
  ExpectAllEndWell(Run(2));
  ExpectFinished();
}

TEST(WorkMessagesTest, OrdersAndResultsReadBack) {
  WorkOrder order;
  order.head.recipe = "fp8-to-bf16";
  order.head.fingerprint = "f";
  order.head.outputs = {"a", "b"};
  order.files = {3, 0, 17};
  const WorkOrder read = ParseWorkOrder(WorkOrderText(order));
  EXPECT_EQ(read.files, order.files);
  EXPECT_EQ(read.head.outputs, order.head.outputs);
  order.files.clear();
  EXPECT_TRUE(ParseWorkOrder(WorkOrderText(order)).files.empty());

  WorkResult result{12, 34, {{"x", 5, {"d", ""}, {}}}};
  const WorkResult back = ParseWorkResult(WorkResultText(result));
  EXPECT_EQ(back.bytes_read, 12U);
  EXPECT_EQ(back.bytes_written, 34U);
  ASSERT_EQ(back.records.size(), 1U);
  EXPECT_EQ(back.records[0].name, "x");
}

TEST(WorkMessagesTest, MessagesInPiecesAreABug) {
  const std::string text = WorkOrderText({});
  for (const std::string& broken : {std::string(), text.substr(0, text.size() - 1), "x" + text}) {
    EXPECT_EQ(testing::ErrorOf([&] { ParseWorkOrder(broken); }).code(), ErrorCode::kInternal);
  }
}

}  // namespace
}  // namespace dsv3::convert

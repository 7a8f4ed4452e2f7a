#include "convert/job/other_job.h"

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/part_test.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

// What is said of an output directory that another job began or made.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::HasSubstr;

class OtherJobTest : public testing::PartTest {
 protected:
  Conversion OtherCommand() const {
    Conversion conversion = Whole();
    conversion.request.run.tensor_sha256 = true;
    return conversion;
  }
};

TEST_F(OtherJobTest, TheRefusalOfAFinishedOutputSaysWhatDiffersAndWhatIsLost) {
  Whole().Run();
  ExpectRefused(OtherCommand(), ErrorCode::kUsage,
                ": --tensor-sha256 was not given, and is given now; choose another directory, or "
                "give --overwrite to replace it, which discards its ");
  testing::TinyCheckpoint changed = testing::SmallFp8Checkpoint();
  changed.Add(testing::kTinyShard3, "one_more", formats::Dtype::kU8, {8});
  changed.Write(in_);
  ExpectRefused(Whole(), ErrorCode::kUsage,
                "output of another command: " + std::string(testing::kTinyShard3) + " had ");
}

TEST_F(OtherJobTest, TheRefusalOfAnUnfinishedOutputSaysWhatDiffersAndHowItGoesOn) {
  Conversion begun = Whole();
  begun.request.run.command = "dsv3-convert fp8-to-bf16 " + in_.string();
  InterruptAfter(begun, testing::kTinyShard1);
  const std::string again =
      "with `dsv3-convert fp8-to-bf16 " + in_.string() + " " + out_.string() + "`; or ";
  const std::string last =
      "give --overwrite to begin anew, which discards what the other run finished (";
  for (const std::string& part :
       {std::string("--tensor-sha256 was not given, and is given now"), again, last}) {
    ExpectRefused(OtherCommand(), ErrorCode::kUsage, part);
  }
  // Another checkpoint is not called a change of the first one.
  testing::SmallFp8Checkpoint().Write(dir_ / "elsewhere");
  const Error error = testing::ErrorOf([&] { Conversion(dir_ / "elsewhere", out_).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("not finished: IN was " + in_.string() + ", and is " +
                                         (dir_ / "elsewhere").string() + " now; "));
  EXPECT_THAT(error.message(), HasSubstr(again));
  EXPECT_THAT(error.message(), HasSubstr(last));
  EXPECT_THAT(error.message(), ::testing::Not(HasSubstr("source changed")));
}

TEST_F(OtherJobTest, AnUnfinishedOutputGoesOnWithAMovedSource) {
  InterruptAfter(Whole(), testing::kTinyShard1);
  fs::rename(in_, dir_ / "moved");
  EXPECT_TRUE(Conversion(dir_ / "moved", out_).Run().resumed);
}

TEST_F(OtherJobTest, AJournalThatDoesNotRecordTheCommandIsAdvisedUponToo) {
  InterruptAfter(Whole(), testing::kTinyShard1);
  ExpectRefused(OtherCommand(), ErrorCode::kUsage,
                "run that command again to finish it; or choose");
}

}  // namespace
}  // namespace dsv3::convert

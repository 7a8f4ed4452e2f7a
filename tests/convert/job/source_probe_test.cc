// What the same command says to a finished output when IN is another checkpoint of the same form.

#include "convert/job/source_probe.h"

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::ErrorOf;
using ::testing::HasSubstr;
using Outcome = ConversionReport::Outcome;

class SourceProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    checkpoint_.Write(dir_ / "in");
    ASSERT_EQ(Run("in").outcome, Outcome::kConverted);
  }

  ConversionReport Run(const std::string& in) const {
    return Conversion(dir_ / in, dir_ / "out").Run();
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_ = testing::SmallFp8Checkpoint();
};

TEST_F(SourceProbeTest, TakesTheSameCheckpointInAnotherPlace) {
  checkpoint_.Write(dir_ / "copy");
  EXPECT_EQ(Run("copy").outcome, Outcome::kNothingToDo);
}

TEST_F(SourceProbeTest, RefusesAnotherCheckpointOfTheSameForm) {
  for (testing::TinyTensor& tensor : checkpoint_.tensors) {
    if (!tensor.bytes.empty()) tensor.bytes.back() ^= 1;
  }
  checkpoint_.Write(dir_ / "tuned");
  const auto before = testing::ReadTree(dir_ / "out");
  const Error error = ErrorOf([&] { Run("tuned"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(),
              HasSubstr("holds the finished output of this command on another IN: tensor '"));
  EXPECT_THAT(error.message(),
              HasSubstr("has other bytes than the one that the output was made of; "
                        "choose another directory, or give --overwrite"));
  EXPECT_EQ(testing::ReadTree(dir_ / "out"), before);
  Conversion overwriting(dir_ / "tuned", dir_ / "out");
  overwriting.request.run.overwrite = true;
  EXPECT_EQ(overwriting.Run().outcome, Outcome::kConverted);
  EXPECT_EQ(Run("tuned").outcome, Outcome::kNothingToDo);
}

TEST_F(SourceProbeTest, LooksIntoEveryFile) {
  const auto spoil = [&](const char* shard) {
    testing::TinyCheckpoint tuned = checkpoint_;
    for (testing::TinyTensor& tensor : tuned.tensors) {
      if (tensor.shard == shard && !tensor.bytes.empty()) tensor.bytes.back() ^= 1;
    }
    fs::remove_all(dir_ / "tuned");
    tuned.Write(dir_ / "tuned");
    return ErrorOf([&] { Run("tuned"); }).message();
  };
  EXPECT_THAT(spoil(testing::kTinyShard1), HasSubstr(testing::kTinyShard1));
  EXPECT_THAT(spoil(testing::kTinyShard2), HasSubstr(testing::kTinyShard2));
}

}  // namespace
}  // namespace dsv3::convert

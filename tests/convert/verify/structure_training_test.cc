#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/layout.h"
#include "convert/verify/structure.h"
#include "formats/finding.h"
#include "tests/convert/recipes/train_to_infer_test.h"

// Training checkpoints, which `layout` writes here.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class StructureTrainingTest : public TrainToInferTest {
 protected:
  void SetUp() override {
    Conversion(Bf16Sample(), train_, convert::LayoutConversion({.to = "mindformers-train"})).Run();
  }
  convert::StructureReport Verify() const { return convert::VerifyStructure({.input = train_}); }

  fs::path train_ = dir_ / "train";
};

TEST_F(StructureTrainingTest, SoundOneHasNoFinding) {
  const convert::StructureReport report = Verify();
  EXPECT_THAT(report.verification.findings, IsEmpty());
  ASSERT_TRUE(report.training);
  EXPECT_EQ(report.training->stack, "mindformers-train");
  EXPECT_EQ(report.training->missing_mtp_layers, 0U);
  EXPECT_EQ(report.model_type, "deepseek_v3");
  EXPECT_GT(report.expected_tensors, 50U);
  EXPECT_GT(report.tensors, 10U);
  EXPECT_GT(report.tensor_bytes, 1'000'000U);
  EXPECT_THAT(report.verification.files, Contains(HasSubstr(".safetensors")));
  EXPECT_FALSE(report.ranks);
}

TEST_F(StructureTrainingTest, ConfigOfAnotherModelIsAFinding) {
  SetConfig(train_, "num_hidden_layers", kMainLayers + 1);
  const convert::StructureReport report = Verify();
  ASSERT_THAT(report.verification.findings, SizeIs(1));
  const formats::Finding& finding = report.verification.findings[0];
  EXPECT_EQ(finding.kind, "bad-training-checkpoint");
  EXPECT_EQ(finding.severity, formats::Severity::kError);
  EXPECT_FALSE(finding.message.empty());
  EXPECT_EQ(report.directory, fs::absolute(train_));
  ASSERT_TRUE(report.training);
  EXPECT_EQ(report.training->stack, "");
}

TEST_F(StructureTrainingTest, MissingFileIsAFinding) {
  for (const fs::directory_entry& entry : fs::directory_iterator(train_)) {
    if (entry.path().extension() != ".safetensors") continue;
    fs::remove(entry.path());
    break;
  }
  const convert::StructureReport report = Verify();
  ASSERT_THAT(report.verification.findings, SizeIs(1));
  EXPECT_EQ(report.verification.findings[0].kind, "bad-training-checkpoint");
}

}  // namespace
}  // namespace dsv3::testing

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/quality_report.h"
#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-convert bf16-to-fp8 from the outside, on a sample checkpoint.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class QuantizeCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fp8_ = (dir_ / "fp8").string();
    bf16_ = (dir_ / "bf16").string();
    out_ = (dir_ / "out").string();
    ASSERT_EQ(RunTool({"dsv3-convert", "sample", fp8_, "--quiet"}).exit_code, 0);
    ASSERT_EQ(RunTool({"dsv3-convert", "fp8-to-bf16", fp8_, bf16_, "--quiet"}).exit_code, 0);
  }

  ToolResult Quantize(std::vector<std::string> options) const {
    options.insert(options.begin(), {"dsv3-convert", "bf16-to-fp8", bf16_, out_});
    return RunTool(options);
  }

  void ExpectUsage(std::vector<std::string> options, const std::string& message) const {
    const ToolResult result = Quantize(std::move(options));
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(result.out, "");
  }

  TempDir dir_;
  std::string fp8_;
  std::string bf16_;
  std::string out_;
};

TEST_F(QuantizeCommandTest, ReportsWhatItDidAndTheWorstTensors) {
  const ToolResult result = Quantize({});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "dsv3-convert: converting\n");
  EXPECT_THAT(result.out, HasSubstr("Quantised to FP8: " + out_ + "\n"));
  EXPECT_THAT(result.out, HasSubstr("309: 136 to FP8, each with a scale, 37 copied untouched"));
  EXPECT_THAT(result.out, HasSubstr("  error       SQNR "));
  EXPECT_THAT(result.out, HasSubstr("worst tensors"));
  EXPECT_THAT(result.out, Not(HasSubstr("  original    ")));
  const ToolResult again = Quantize({});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_THAT(again.out, HasSubstr("Nothing to do"));
}

TEST_F(QuantizeCommandTest, GivesTheOriginalBack) {
  const ToolResult result = Quantize({"--scales-from", fp8_});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("374 of 374 blocks kept; 0 of 4,505,600 codes changed (0 %)"));
  EXPECT_THAT(result.out, Not(HasSubstr("edited tensors")));
  auto tree = ReadTree(out_);
  tree.erase("checkpoint.manifest.json");
  EXPECT_TRUE(tree == ReadTree(fp8_));
}

TEST_F(QuantizeCommandTest, JsonReportConformsToItsSchema) {
  const json schema = json::parse(
      ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas/convert-report.schema.json"));
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{"--dry-run", "--json"},
                                             {"--json", "--scale-fmt", "ue8m0"},
                                             {"--json", "--scale-fmt", "ue8m0"},
                                             {"--json", "--overwrite", "--scales-from", fp8_}}) {
    const ToolResult result = Quantize(options);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json report = json::parse(result.out);
    EXPECT_EQ(SchemaComplaints(schema, report), "");
    EXPECT_EQ(report["command"], "bf16-to-fp8");
    if (report["outcome"] != "converted") {
      EXPECT_TRUE(report["quality"].is_null());
      continue;
    }
    EXPECT_EQ(report["quality"]["tensors"].size(), 136U);
    EXPECT_EQ(report["quality"]["total"]["elements"], 4505600U);
    EXPECT_EQ(report["quality"]["total"].contains("changed_share"), options.back() == fp8_);
  }
}

TEST_F(QuantizeCommandTest, TakesGlobsSeveralTimes) {
  const ToolResult result =
      Quantize({"--json", "--exclude", "model.layers.0.*", "--include", "lm_head.weight",
                "--exclude=*experts*", "--include", "*.eh_proj.weight"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json manifest = json::parse(ReadFile(out_ + "/checkpoint.manifest.json"));
  EXPECT_EQ(manifest["options"]["exclude"], json({"model.layers.0.*", "*experts*"}));
  EXPECT_EQ(manifest["options"]["include"], json({"lm_head.weight", "*.eh_proj.weight"}));
}

TEST_F(QuantizeCommandTest, RefusesWordsThatItDoesNotKnow) {
  ExpectUsage({"--recipe", "deepseak"}, "did you mean deepseek?");
  ExpectUsage({"--scale-fmt", "bf16"}, "give f32, ue8m0 or e8m0");
  for (const char* block : {"128", "0x128", "128x", "x", "-1x1", "128x128x1", "tensors", "1 x 1"}) {
    ExpectUsage({"--block", block}, "give ROWSxCOLUMNS such as 128x128");
  }
  ExpectUsage({"--scale-name", "scales"}, "give weight_scale_inv or scale");
  ExpectUsage({"--nonfinite", "ignore"}, "give error or saturate");
  ExpectUsage({"--include", ""}, "give a text that is not empty");
  ExpectUsage({"--recipe", "llm-compressor", "--scale-fmt", "ue8m0"}, "--scale-fmt f32");
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST(QualityReportTest, ShowsTheWorstFirstAndCountsEdits) {
  std::vector<convert::TensorQuality> tensors(3);
  tensors[0].tensor = "good";
  tensors[1].tensor = "bad";
  tensors[2].tensor = "exact\x1b";
  for (convert::TensorQuality& each : tensors) {
    each.quality.elements = 1000;
    each.quality.blocks = 2;
    each.quality.kept_blocks = 2;
    each.quality.sum_squares = 100;
  }
  tensors[0].quality.sum_squared_error = 0.001;
  tensors[1].quality.sum_squared_error = 1;
  tensors[1].quality.kept_blocks = 1;
  tensors[1].quality.changed_codes = 30;
  tensors[1].quality.saturated = 4;
  const std::string text = cli::QualityText(tensors, true);
  EXPECT_THAT(text, HasSubstr("5 of 6 blocks kept; 30 of 3,000 codes changed (1 %)"));
  EXPECT_THAT(text, HasSubstr("           1   2         30  bad\n"));
  EXPECT_LT(text.find("20.00"), text.find("50.00"));
  EXPECT_THAT(text, Not(HasSubstr("exact")));
  EXPECT_EQ(cli::QualityText({}, false), "");
}

}  // namespace
}  // namespace dsv3::testing

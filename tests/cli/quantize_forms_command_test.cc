#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-convert quantize from the outside, on a sample checkpoint in FP8.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class QuantizeFormsCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    in_ = (dir_ / "in").string();
    out_ = (dir_ / "out").string();
    MakeSample("tiny-tp");
  }

  void MakeSample(const char* preset) const {
    ASSERT_EQ(RunTool({"dsv3-convert", "sample", in_, "--preset", preset, "--quiet"}).exit_code, 0);
  }

  ToolResult Quantize(std::vector<std::string> options) const {
    options.insert(options.begin(), {"dsv3-convert", "quantize", in_, out_});
    return RunTool(options);
  }

  void ExpectUsage(std::vector<std::string> options, const std::string& message) const {
    const ToolResult result = Quantize(std::move(options));
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(result.out, "");
    EXPECT_FALSE(std::filesystem::exists(out_));
  }

  TempDir dir_;
  std::string in_;
  std::string out_;
};

TEST_F(QuantizeFormsCommandTest, ReportsWhatItDid) {
  std::filesystem::remove_all(in_);
  MakeSample("tiny");
  const ToolResult result = Quantize({"--to", "int8"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("Quantised to INT8: " + out_ + "\n"));
  EXPECT_THAT(result.out, HasSubstr("309: 136 to INT8, each with its scales, 37 copied untouched"));
  EXPECT_THAT(result.out, HasSubstr("  error       SQNR "));
  EXPECT_THAT(Quantize({"--to", "int8"}).out, HasSubstr("Nothing to do"));
  EXPECT_EQ(RunTool({"dsv3-verify", "structure", out_, "--strict"}).exit_code, 0);
}

TEST_F(QuantizeFormsCommandTest, SaysWhichWeightsStay) {
  const ToolResult result = Quantize({"--to", "int4", "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("weights that --modules leaves, dequantised to BF16"));
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(QuantizeFormsCommandTest, JsonReportConformsToItsSchema) {
  const json schema = json::parse(
      ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas/convert-report.schema.json"));
  for (const char* const to : {"int8", "int8-block", "int4", "fp8"}) {
    const ToolResult result = Quantize({"--to", to, "--json", "--overwrite"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json report = json::parse(result.out);
    EXPECT_EQ(SchemaComplaints(schema, report), "");
    EXPECT_EQ(report["command"], "quantize");
    EXPECT_FALSE(report["quality"].is_null());
    EXPECT_EQ(report["dequantized"].empty(), std::string(to) != "int4");
    const json manifest_schema = json::parse(
        ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas/manifest.schema.json"));
    const json manifest = json::parse(ReadFile(out_ + "/checkpoint.manifest.json"));
    EXPECT_EQ(SchemaComplaints(manifest_schema, manifest), "");
    EXPECT_EQ(manifest["options"]["to"], to);
  }
}

TEST_F(QuantizeFormsCommandTest, PartsMakeTheSameFiles) {
  ASSERT_EQ(Quantize({"--to", "int4", "--quiet"}).exit_code, 0);
  const auto expected = ReadTree(out_);
  std::filesystem::remove_all(out_);
  for (const char* const part : {"2/3", "0/3", "1/3"}) {
    ASSERT_EQ(Quantize({"--to", "int4", "--part", part}).exit_code, 0);
  }
  ASSERT_EQ(Quantize({"--to", "int4", "--finish"}).exit_code, 0);
  EXPECT_TRUE(ReadTree(out_) == expected);
}

TEST_F(QuantizeFormsCommandTest, GivesAnOriginalBack) {
  const std::string int4 = (dir_ / "int4").string();
  const std::string bf16 = (dir_ / "bf16").string();
  ASSERT_EQ(RunTool({"dsv3-convert", "quantize", in_, int4, "--to", "int4"}).exit_code, 0);
  ASSERT_EQ(RunTool({"dsv3-convert", "dequantize", int4, bf16}).exit_code, 0);
  const ToolResult result =
      RunTool({"dsv3-convert", "quantize", bf16, out_, "--scales-from", int4, "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(json::parse(result.out)["quality"].is_null());
  auto tree = ReadTree(out_);
  auto expected = ReadTree(int4);
  tree.erase("checkpoint.manifest.json");
  expected.erase("checkpoint.manifest.json");
  EXPECT_TRUE(tree == expected);
}

TEST_F(QuantizeFormsCommandTest, RefusesWhatItCannotWrite) {
  ExpectUsage({}, "--to");
  for (const char* const form : {"w4afp8", "awq", "gptq", "w8a8"}) {
    ExpectUsage({"--to", form}, "needs scales of activations");
  }
  ExpectUsage({"--to", "int3"}, "int8");
  ExpectUsage({"--to", "int8", "--recipe", "deepseek"}, "written by llm-compressor");
  ExpectUsage({"--to", "int8", "--modules", "attention"}, "give linear or experts");
}

}  // namespace
}  // namespace dsv3::testing

#include <cstdint>
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

// dsv3-convert repack from the outside.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// A checkpoint of one MXFP4 weight, 2 × 64, whose last group of columns has this scale.
void WriteCheckpoint(const std::filesystem::path& directory, char last_scale) {
  const std::string module = "layers.0.ffn.experts.0.w1.";
  json header;
  header[module + "scale"] = {{"dtype", "F8_E8M0"}, {"shape", {2, 2}}, {"data_offsets", {64, 68}}};
  header[module + "weight"] = {{"dtype", "I8"}, {"shape", {2, 32}}, {"data_offsets", {0, 64}}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(text.size() >> 8 * i);
  bytes += text + std::string(64, '\x21') + "\x70\x71\x72" + last_scale;
  WriteFile(directory / "model.safetensors", bytes);
  WriteFile(directory / "config.json", R"({"model_type": "none", "expert_dtype": "fp4"})");
}

class RepackCommandTest : public ::testing::Test {
 protected:
  ToolResult Repack(std::vector<std::string> options) const {
    options.insert(options.begin(), {"dsv3-convert", "repack", in_, out_});
    return RunTool(options);
  }

  TempDir dir_;
  std::string in_ = (dir_ / "in").string();
  std::string out_ = (dir_ / "out").string();
};

TEST_F(RepackCommandTest, SaysWhatItDidAndWhatItWarnsOf) {
  WriteCheckpoint(in_, '\x73');
  const ToolResult done = Repack({"--to", "nvfp4"});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("Repacked without loss: " + out_ + "\n"));
  EXPECT_THAT(done.out, HasSubstr("4: 1 to nvfp4-modelopt, 0 copied untouched"));
  EXPECT_THAT(done.err, HasSubstr("1 weight got the input_scale 1.0"));
  const ToolResult again = Repack({"--to", "nvfp4-modelopt"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("Nothing to do"));
  const ToolResult other = Repack({"--to", "fp8"});
  EXPECT_EQ(other.exit_code, 2);
}

TEST_F(RepackCommandTest, JsonReportConformsToItsSchema) {
  WriteCheckpoint(in_, '\x73');
  const json schema = json::parse(
      ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas/convert-report.schema.json"));
  for (const std::vector<std::string>& options : std::vector<std::vector<std::string>>{
           {"--to", "fp8", "--dry-run", "--json"}, {"--to", "fp8", "--json"}}) {
    const ToolResult result = Repack(options);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json report = json::parse(result.out);
    EXPECT_EQ(SchemaComplaints(schema, report), "");
    EXPECT_EQ(report["command"], "repack");
    EXPECT_EQ(report["converted_tensors"], 1);
  }
}

TEST_F(RepackCommandTest, NamesTheBlockThatItCannotWrite) {
  WriteCheckpoint(in_, '\x10');
  const ToolResult result = Repack({"--to", "fp8"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("layers.0.ffn.experts.0.w1.weight"));
  EXPECT_THAT(result.err, HasSubstr("row 1, columns 32 to 63"));
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(RepackCommandTest, NeedsAForm) {
  WriteCheckpoint(in_, '\x73');
  EXPECT_EQ(Repack({}).exit_code, 2);
  EXPECT_THAT(Repack({}).err, HasSubstr("--to is missing"));
  const ToolResult unknown = Repack({"--to", "int4"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("nvfp4-compressed-tensors"));
}

}  // namespace
}  // namespace dsv3::testing

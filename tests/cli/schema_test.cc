#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// Files and reports that other programs read conform to docs/schemas.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class SchemaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Run({"dsv3-convert", "sample", model_, "--preset", "tiny-tp", "--quiet"});
  }

  static std::string Run(const std::vector<std::string>& words) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }

  static void ExpectConforms(const std::string& text, const std::string& name) {
    const json schema =
        json::parse(ReadFile(fs::path(DSV3_SOURCE_DIR) / "docs/schemas" / (name + ".schema.json")));
    ASSERT_TRUE(json::accept(text)) << text.substr(0, 200);
    EXPECT_EQ(SchemaComplaints(schema, json::parse(text)), "") << name;
  }

  TempDir dir_;
  std::string model_ = (dir_ / "model").string();
};

TEST_F(SchemaTest, InspectionOfEveryForm) {
  ExpectConforms(Run({"dsv3-inspect", model_, "--json"}), "inspect-report");
  ExpectConforms(Run({"dsv3-inspect", model_, "--json", "--tensor", "model.norm.weight"}),
                 "inspect-tensor");
  ExpectConforms(Run({"dsv3-inspect", model_, "--json", "--tensor", "*.0.self_attn.*"}),
                 "inspect-tensors");
  ExpectConforms(Run({"dsv3-inspect", model_, "--json", "--list"}), "inspect-list");
}

TEST_F(SchemaTest, ManifestOfAConversionAndOfADownload) {
  const fs::path bf16 = dir_ / "bf16";
  Run({"dsv3-convert", "fp8-to-bf16", model_, bf16.string(), "--tensor-sha256", "-q"});
  ExpectConforms(ReadFile(bf16 / "checkpoint.manifest.json"), "manifest");
  Run({"dsv3-verify", "checksum", "create", model_, "-q"});
  ExpectConforms(ReadFile(fs::path(model_) / "checkpoint.manifest.json"), "manifest");
}

TEST_F(SchemaTest, LayoutOfRankShards) {
  int number = 0;
  for (const std::vector<std::string>& sizes : std::vector<std::vector<std::string>>{
           {"--tp", "4", "--ep", "8"},
           {"--tp", "2", "--ep", "2", "--grouping", "component", "--checksum", "none"},
           {"--tp", "8", "--format", "deepseek"}}) {
    const fs::path ranks = dir_ / ("ranks" + std::to_string(number++));
    std::vector<std::string> words = {"dsv3-reshard", model_, ranks.string(), "-q"};
    words.insert(words.end(), sizes.begin(), sizes.end());
    Run(words);
    ExpectConforms(ReadFile(ranks / "layout.json"), "layout");
    ExpectConforms(ReadFile(ranks / "checkpoint.manifest.json"), "manifest");
    ExpectConforms(Run({"dsv3-inspect", ranks.string(), "--json"}), "inspect-report");
  }
}

}  // namespace
}  // namespace dsv3::testing

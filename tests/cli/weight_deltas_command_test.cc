// Weight deltas as the input of dsv3-verify all.

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class WeightDeltasCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const std::string version : {"6", "7"}) {
      Succeed({"dsv3-convert", "sample", Path("v" + version), "--seed", version, "--quiet"});
    }
    Succeed({"dsv3-convert", "pack", Path("v7"), deltas_, "--base", Path("v6"), "--form",
             "pull-weights", "--weight-version", "7", "--quiet"});
  }

  static void Succeed(const std::vector<std::string>& words) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 0) << words[1] << ": " << result.err;
  }

  // The outcome of each check, and why it has none.
  static std::map<std::string, std::string> Outcomes(const ToolResult& result) {
    std::map<std::string, std::string> outcomes;
    const json report = json::parse(result.out);
    for (const json& check : report["checks"]) {
      outcomes[check["check"]] = check["outcome"];
      if (!check["reason"].is_null()) {
        outcomes[check["check"]] += ": " + check["reason"].get<std::string>();
      }
    }
    return outcomes;
  }

  ToolResult VerifyAll() const {
    return RunTool({"dsv3-verify", "all", deltas_, "--base", Path("v6"), "--json", "--quiet"});
  }
  std::string Path(const std::string& name) const { return (dir_ / name).string(); }

  TempDir dir_;
  const std::string deltas_ = Path("deltas");
};

// Files and manifest are those of the deltas, and nothing of them is looked for beside the base.
TEST_F(WeightDeltasCommandTest, AllChecksPass) {
  WriteFile(Path("v6") + "/model.sig", "of the base");
  const ToolResult result = VerifyAll();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Outcomes(result), (std::map<std::string, std::string>{
                                  {"structure", "passed"},
                                  {"provenance", "passed"},
                                  {"verify-signature", "skipped: there is no model.sig"},
                                  {"checksum check", "passed"},
                                  {"numeric", "passed"}}));
}

TEST_F(WeightDeltasCommandTest, ADamagedFrameIsFound) {
  const std::string file = deltas_ + "/model-00002-of-00004.safetensors";
  std::string content = ReadFile(file);
  content.back() = static_cast<char>(content.back() ^ 1);
  WriteFile(file, content);
  const ToolResult result = VerifyAll();
  EXPECT_EQ(result.exit_code, 3) << result.err;
  std::map<std::string, std::string> outcomes = Outcomes(result);
  EXPECT_EQ(outcomes["checksum check"], "failed");
  EXPECT_THAT(outcomes["numeric"], HasSubstr("error: model-00002-of-00004.safetensors: "));
}

}  // namespace
}  // namespace dsv3::testing

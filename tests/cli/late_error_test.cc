// Results that cannot be written after the work is done.

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/run_tool.h"
#include "tests/support/temp_dir.h"

namespace dsv3::cli {
namespace {

using ::testing::HasSubstr;
using testing::RunTool;
using testing::ToolResult;

// The first block fits on the disk.
ToolResult VerifyOnAFullDisk(const std::string& command, const std::string& model,
                             const std::string& option, const std::string& file,
                             const std::string& more) {
  return RunTool({"/bin/sh", "-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh",
                  DSV3_BIN_DIR "/dsv3-verify", command, model, option, file, more});
}

TEST(LateErrorTest, AReportIsShownWhereItsFileCannotBeWritten) {
  const testing::TempDir dir;
  const std::string model = (dir / "model").string();
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", model}).exit_code, 0);
  for (const char* option : {"--junit", "--sarif"}) {
    for (const char* command : {"structure", "all"}) {
      const ToolResult result =
          VerifyOnAFullDisk(command, model, option, (dir / "report").string(), "--no-progress");
      EXPECT_EQ(result.exit_code, 4);
      EXPECT_THAT(result.err, HasSubstr("File too large"));
      EXPECT_THAT(result.out, HasSubstr("\nOK: ")) << command;
      EXPECT_FALSE(std::filesystem::exists(dir / "report"));
    }
    EXPECT_EQ(
        VerifyOnAFullDisk("structure", model, option, (dir / "report").string(), "--quiet").out,
        "OK: headers, index and config agree\n");
  }
  // There the error is the one object.
  const ToolResult json =
      VerifyOnAFullDisk("structure", model, "--junit", (dir / "report").string(), "--json");
  EXPECT_EQ(json.exit_code, 4);
  EXPECT_THAT(json.out, ::testing::StartsWith("{\n  \"error\""));
}

}  // namespace
}  // namespace dsv3::cli

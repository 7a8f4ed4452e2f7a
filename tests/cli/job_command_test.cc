#include "cli/job_command.h"

#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/commands.h"
#include "cli/parse.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::cli {
namespace {

using ::testing::HasSubstr;

std::string CommandOf(const Tool& tool, const std::vector<std::string>& words) {
  return JobCommand(tool, ParseCall(tool, words, {}));
}

TEST(JobCommandTest, HasWhatDecidesTheOutputAndPathsFromTheRoot) {
  const std::string here = std::filesystem::current_path().string();
  Tool convert;
  convert.name = "dsv3-convert";
  convert.commands = {Bf16ToFp8Command()};
  EXPECT_EQ(CommandOf(convert, {"bf16-to-fp8", "my in", "out", "--exclude", "a*", "--exclude=b",
                                "-n", "--overwrite", "--yes", "--scales-from", "orig", "-j4"}),
            "dsv3-convert bf16-to-fp8 --exclude 'a*' --exclude b --scales-from " + here +
                "/orig --threads 4 '" + here + "/my in'");
  Tool reshard;
  reshard.name = "dsv3-reshard";
  reshard.commands = {ReshardCommand()};
  EXPECT_EQ(CommandOf(reshard, {"--tp", "2", "--format=keys:k.json", "--ep-placement=round-robin",
                                "--ranks", "0", "/in", "out"}),
            "dsv3-reshard --tp 2 --ep-placement round-robin --format keys:" + here + "/k.json /in");
  EXPECT_EQ(CommandOf(reshard, {"--tp", "2", "--ep-placement=p", "/in", "out"}),
            "dsv3-reshard --tp 2 --ep-placement " + here + "/p /in");
}

const std::vector<std::function<Command()>> kCommands = {
    Bf16ToFp8Command,     Fp8ToBf16Command, TrainToInferCommand, SampleCommand,
    InspectCommand,       ReshardCommand,   MergeCommand,        ChecksumCreateCommand,
    ChecksumCheckCommand, StructureCommand, NumericCommand,      CompareCommand,
    ProvenanceCommand,    AllChecksCommand, SignCommand,         VerifySignatureCommand};

TEST(PathOptionTest, EveryOptionThatTakesAPathRefusesAddresses) {
  std::set<std::string> names;
  for (const auto& make : kCommands) {
    Tool tool;
    tool.name = "tool";
    tool.commands = {make()};
    for (const Option& option : tool.commands[0].options) {
      // The value names that the tables use for paths.
      const bool is_path = option.value_name == "FILE" || option.value_name == "OUT" ||
                           option.value_name.starts_with("DIR") ||
                           option.value_name.ends_with(".pem");
      EXPECT_TRUE(!is_path || option.TakesPath()) << option.name;
      if (option.path == PathUse::kNone) continue;
      names.insert(option.name);
      for (const std::string address : {"s3://a/b", "hf://org/name", "https://host/x"}) {
        std::vector<std::string> words = {"--" + option.name, option.path_prefix + address};
        if (!tool.commands[0].name.empty()) words.insert(words.begin(), tool.commands[0].name);
        try {
          ParseCall(tool, words, {});
          ADD_FAILURE() << option.name << " took " << address;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kUsage);
          EXPECT_THAT(error.message(),
                      HasSubstr("--" + option.name + ": " + address + " is an address"));
        }
      }
    }
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"balance-svg", "base", "config", "ep-placement", "expert-load",
                                   "format", "junit", "key", "manifest", "mtp-from", "output",
                                   "sarif", "scales-from", "signature", "source"}));
}

TEST(JobCommandTest, AnUnfinishedOutputNamesTheCommandThatContinuesIt) {
  const testing::TempDir dir;
  const std::string in = (dir / "my in").string();
  const std::string out = (dir / "out").string();
  ASSERT_EQ(testing::RunTool({"dsv3-convert", "sample", in, "-q"}).exit_code, 0);
  ASSERT_EQ(testing::RunTool({"dsv3-convert", "fp8-to-bf16", in, "out", "--part", "0/2", "-q"},
                             {.environment = {}, .directory = dir.path().string(), .stdout_to = ""})
                .exit_code,
            0);
  const std::string command = "dsv3-convert fp8-to-bf16 '" + in + "' " + out;
  const testing::ToolResult verified = testing::RunTool({"dsv3-verify", "numeric", out});
  EXPECT_EQ(verified.exit_code, 3);
  EXPECT_THAT(verified.err, HasSubstr("`" + command + " --part I/2`"));
  const testing::ToolResult other =
      testing::RunTool({"dsv3-convert", "fp8-to-bf16", in, out, "--checksum", "none"});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.err, HasSubstr("--checksum was sha256, and is none now"));
  EXPECT_THAT(other.err, HasSubstr("`" + command + " --finish`"));
}

}  // namespace
}  // namespace dsv3::cli

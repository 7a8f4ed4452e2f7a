#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cli/run_tool.h"

// Calls that the tables do not allow: exact stderr, nothing on stdout, exit code 2.
namespace dsv3::testing {
namespace {

constexpr const char* kConvertHint =
    "Run 'dsv3-convert fp8-to-bf16 --help' to see what it accepts.\n";
constexpr const char* kSynopsis = "Usage: dsv3-convert fp8-to-bf16 [OPTION]... IN OUT\n";

std::string Error(const std::string& message) { return "dsv3-convert: error: " + message + "\n"; }

void ExpectUsageError(const std::vector<std::string>& words, const std::string& stderr_text) {
  const ToolResult result = RunTool(words);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, stderr_text);
}

// The words of a call of fp8-to-bf16.
std::vector<std::string> Convert(std::vector<std::string> words) {
  words.insert(words.begin(), {"dsv3-convert", "fp8-to-bf16"});
  return words;
}

TEST(UsageTest, MisspeltOptionGetsTheNearestOne) {
  ExpectUsageError(Convert({"--thread", "4", "in", "out"}),
                   Error("unknown option --thread; did you mean --threads?") + kConvertHint);
  ExpectUsageError(
      Convert({"in", "out", "--no-progres=1"}),
      Error("unknown option --no-progres; did you mean --no-progress?") + kConvertHint);
  ExpectUsageError(Convert({"in", "out", "--gpu"}), Error("unknown option --gpu") + kConvertHint);
  ExpectUsageError(Convert({"in", "out", "-x"}), Error("unknown option -x") + kConvertHint);
  ExpectUsageError(Convert({"in", "out", "-qx"}), Error("unknown option -qx") + kConvertHint);
}

TEST(UsageTest, MisspeltOptionBeforeTheCommandIsNotTakenForAnother) {
  ExpectUsageError({"dsv3-convert", "--thread", "4", "fp8-to-bf16", "in", "out"},
                   Error("unknown option --thread; did you mean --threads?") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
}

TEST(UsageTest, MisspeltCommandGetsTheNearestOne) {
  ExpectUsageError({"dsv3-convert", "fp8tobf16", "in", "out"},
                   Error("unknown command 'fp8tobf16'; did you mean 'fp8-to-bf16'?") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
  ExpectUsageError(
      {"dsv3-convert", "quantise"},
      Error("unknown command 'quantise'") + "Run 'dsv3-convert --help' to see what it accepts.\n");
}

TEST(UsageTest, OptionOfAnotherCommandIsSaidToBeThat) {
  ExpectUsageError(
      Convert({"--seed", "3", "in", "out"}),
      Error("option --seed belongs to 'dsv3-convert sample', not to 'fp8-to-bf16'") + kConvertHint);
}

TEST(UsageTest, MissingAndSurplusArgumentsShowTheUsage) {
  ExpectUsageError(Convert({}),
                   Error("fp8-to-bf16: missing IN and OUT") + kSynopsis + kConvertHint);
  ExpectUsageError(Convert({"in"}), Error("fp8-to-bf16: missing OUT") + kSynopsis + kConvertHint);
  ExpectUsageError(
      Convert({"in", "out", "more"}),
      Error("unexpected argument 'more': fp8-to-bf16 takes 2") + kSynopsis + kConvertHint);
  ExpectUsageError(Convert({"in", ""}),
                   Error("OUT is empty; give a path") + kSynopsis + kConvertHint);
  ExpectUsageError({"dsv3-inspect"},
                   "dsv3-inspect: error: dsv3-inspect: missing IN\n"
                   "Usage: dsv3-inspect [OPTION]... IN\n"
                   "Run 'dsv3-inspect --help' to see what it accepts.\n");
}

TEST(UsageTest, BareCallPrintsTheHelpOnStderr) {
  const ToolResult help = RunTool({"dsv3-convert", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.err, "");
  ExpectUsageError({"dsv3-convert"}, Error("no command given") + help.out);
}

TEST(UsageTest, ThreadsAreAWholeNumberInRange) {
  for (const char* value : {"-1", "4097", "four", "", "1.5", "99999999999999999999", "0x4", " 4"}) {
    ExpectUsageError(Convert({"in", "out", "--threads", value}),
                     Error(std::string("--threads: '") + value +
                           "' is not accepted; give a whole number from 0 (all processors) to "
                           "4096") +
                         kConvertHint);
  }
  ExpectUsageError(Convert({"--threads=-1", "in", "out"}),
                   Error("--threads: '-1' is not accepted; give a whole number from 0 (all "
                         "processors) to 4096") +
                       kConvertHint);
}

TEST(UsageTest, MemoryIsASize) {
  for (const char* value : {"0", "-1", "1.5G", "lots", "18446744073709551616", "20000000000G"}) {
    ExpectUsageError(Convert({"in", "out", "--memory", value}),
                     Error(std::string("--memory: '") + value +
                           "' is not accepted; give a whole number of bytes above 0, or one "
                           "followed by K, M, G (1000) or Ki, Mi, Gi (1024), such as 200M") +
                         kConvertHint);
  }
}

TEST(UsageTest, WordsOutOfAChoiceGetTheNearestOne) {
  ExpectUsageError(Convert({"in", "out", "--checksum", "sha-256"}),
                   Error("--checksum: 'sha-256' is not accepted; give sha256 or none; did you "
                         "mean sha256?") +
                       kConvertHint);
  ExpectUsageError(
      Convert({"in", "out", "--color", "red"}),
      Error("--color: 'red' is not accepted; give auto, always or never") + kConvertHint);
  ExpectUsageError({"dsv3-convert", "sample", "out", "--seed", "18446744073709551616"},
                   Error("--seed: '18446744073709551616' is not accepted; give a whole number "
                         "from 0 to 18446744073709551615") +
                       "Run 'dsv3-convert sample --help' to see what it accepts.\n");
}

TEST(UsageTest, ValuesStandWhereTheyBelong) {
  ExpectUsageError(Convert({"in", "out", "--threads"}),
                   Error("option --threads needs a value; write --threads N") + kConvertHint);
  ExpectUsageError(Convert({"in", "out", "--checksum"}),
                   Error("option --checksum needs a value; give sha256 or none") + kConvertHint);
  ExpectUsageError(Convert({"in", "out", "--quiet=yes"}),
                   Error("option --quiet takes no value, but was given 'yes'") + kConvertHint);
}

TEST(UsageTest, ControlCharactersOfTheCallDoNotReachTheTerminal) {
  ExpectUsageError(
      {"dsv3-convert", "\x1b[2J"},
      Error("unknown command '\\x1b[2J'") + "Run 'dsv3-convert --help' to see what it accepts.\n");
}

TEST(UsageTest, JsonGetsTheErrorAsOneObject) {
  const ToolResult result = RunTool(Convert({"in", "out", "--thread", "--json"}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out,
            "{\n"
            "  \"error\": {\n"
            "    \"code\": \"usage\",\n"
            "    \"exit_code\": 2,\n"
            "    \"file\": null,\n"
            "    \"tensor\": null,\n"
            "    \"message\": \"unknown option --thread; did you mean --threads?\"\n"
            "  }\n"
            "}\n");
  EXPECT_EQ(result.err, Error("unknown option --thread; did you mean --threads?") + kConvertHint);
}

TEST(UsageTest, AfterADoubleDashNothingIsAnOption) {
  const ToolResult result = RunTool({"dsv3-convert", "fp8-to-bf16", "--", "--json", "out"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("--json: there is no such file or directory"), std::string::npos)
      << result.err;
}

TEST(UsageTest, ToolWithoutAJobSaysWhichToolsHaveOne) {
  const std::string tool = "dsv3-reshard";
  for (const std::vector<std::string>& rest :
       {std::vector<std::string>{}, {"split", "dir", "--strict"}, {"--json=3"}}) {
    std::vector<std::string> words = {tool};
    words.insert(words.end(), rest.begin(), rest.end());
    ExpectUsageError(words, tool + ": error: " + tool +
                                " has no job in this version yet; the tools that have are "
                                "dsv3-convert, dsv3-inspect and dsv3-verify\n");
  }
  EXPECT_EQ(RunTool({tool, "--version"}).exit_code, 0);
  EXPECT_EQ(RunTool({tool, "--help"}).exit_code, 0);
}

constexpr const char* kVerifyHint = "Run 'dsv3-verify --help' to see what it accepts.\n";

TEST(UsageTest, CommandsOfTwoWordsAreFoundAmongOptions) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"dsv3-verify", "checksum", "check", "nowhere"},
        {"dsv3-verify", "--no-progress", "checksum", "--color=never", "check", "nowhere"},
        {"dsv3-verify", "checksum", "--threads", "1", "check", "--", "nowhere"}}) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_NE(result.err.find("nowhere"), std::string::npos) << result.err;
  }
}

TEST(UsageTest, HalfACommandIsToldWhatMayFollow) {
  const std::string error = "dsv3-verify: error: ";
  ExpectUsageError({"dsv3-verify", "checksum"},
                   error + "'checksum' is the first word of a command only; add create or check\n" +
                       kVerifyHint);
  ExpectUsageError(
      {"dsv3-verify", "checksum", "chekc", "dir"},
      error + "unknown command 'checksum chekc'; did you mean 'checksum check'?\n" + kVerifyHint);
  ExpectUsageError({"dsv3-verify", "checksum", "directory"},
                   error +
                       "unknown command 'checksum directory'; after 'checksum' stands create or "
                       "check\n" +
                       kVerifyHint);
  ExpectUsageError({"dsv3-verify", "chekcsum", "check", "dir"},
                   error + "unknown command 'chekcsum'; did you mean 'checksum'?\n" + kVerifyHint);
  ExpectUsageError({"dsv3-verify", "checksum", "create", "dir", "--quick"},
                   error +
                       "option --quick belongs to 'dsv3-verify checksum check', not to "
                       "'checksum create'\n"
                       "Run 'dsv3-verify checksum create --help' to see what it accepts.\n");
  ExpectUsageError({"dsv3-verify", "checksum", "create"},
                   error +
                       "checksum create: missing DIR\n"
                       "Usage: dsv3-verify checksum create [OPTION]... DIR\n"
                       "Run 'dsv3-verify checksum create --help' to see what it accepts.\n");
  EXPECT_EQ(RunTool({"dsv3-verify", "checksum", "--help"}).out,
            RunTool({"dsv3-verify", "--help"}).out);
}

}  // namespace
}  // namespace dsv3::testing

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cli/run_tool.h"
#include "tests/support/temp_dir.h"

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
  ExpectUsageError({"dsv3-convert", "quantise"},
                   Error("unknown command 'quantise'; did you mean 'quantize'?") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
}

TEST(UsageTest, APathInPlaceOfTheCommandIsCalledSo) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "fp8");
  ToolSetting setting;
  setting.directory = dir.path().string();
  const ToolResult result = RunTool({"dsv3-convert", "fp8", "bf16"}, setting);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err, Error("unknown command 'fp8'; it is a path; the command comes before it") +
                            "Run 'dsv3-convert --help' to see what it accepts.\n");
}

TEST(UsageTest, WordsOfOtherProgramsGetTheirNameHere) {
  ExpectUsageError(Convert({"--force", "in", "out"}),
                   Error("unknown option --force; did you mean --overwrite?") + kConvertHint);
  ExpectUsageError({"dsv3-convert", "--input-fp8-hf-path", "a", "--output-bf16-hf-path", "b"},
                   Error("unknown option --input-fp8-hf-path; the directories are arguments here: "
                         "dsv3-convert fp8-to-bf16 IN OUT") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
  ExpectUsageError(Convert({"in", "--output-bf16-hf-path=b"}),
                   Error("unknown option --output-bf16-hf-path; the directories are arguments "
                         "here: dsv3-convert fp8-to-bf16 IN OUT") +
                       kConvertHint);
  ExpectUsageError({"dsv3-convert", "cast", "in", "out"},
                   Error("unknown command 'cast'; use 'fp8-to-bf16' or 'bf16-to-fp8'") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
  ExpectUsageError({"dsv3-verify", "diff", "a", "b"},
                   "dsv3-verify: error: unknown command 'diff'; did you mean 'compare'?\n"
                   "Run 'dsv3-verify --help' to see what it accepts.\n");
  ExpectUsageError(
      {"dsv3-convert", "diff", "a", "b"},
      Error("unknown command 'diff'; 'dsv3-verify compare A B' compares two checkpoints") +
          "Run 'dsv3-convert --help' to see what it accepts.\n");
  ExpectUsageError(Convert({"-v", "in", "out"}),
                   Error("unknown option -v; progress and warnings are shown without it, and -V "
                         "prints the version") +
                       kConvertHint);
}

TEST(UsageTest, WordsOfOtherProgramsForFilesAndForTalkGetAHint) {
  const std::string arguments =
      "what is read and what is written are arguments here, in the order that --help shows";
  for (const char* const option : {"-o", "-i", "--output", "--input", "--output-dir"}) {
    ExpectUsageError(
        Convert({option, "a", "b"}),
        Error(std::string("unknown option ") + option + "; " + arguments) + kConvertHint);
  }
  ExpectUsageError(Convert({"a", "b", "-y"}),
                   Error("unknown option -y; did you mean --yes?") + kConvertHint);
  ExpectUsageError(Convert({"a", "b", "--verbose"}),
                   Error("unknown option --verbose; progress and warnings are shown without it, "
                         "and -V prints the version") +
                       kConvertHint);
  ExpectUsageError({"dsv3-convert", "fp8_cast_bf16", "a", "b"},
                   Error("unknown command 'fp8_cast_bf16'; did you mean 'fp8-to-bf16'?") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
  ExpectUsageError({"dsv3-convert", "version"},
                   Error("unknown command 'version'; did you mean -V?") +
                       "Run 'dsv3-convert --help' to see what it accepts.\n");
}

TEST(UsageTest, LettersTakeValuesAsOtherProgramsDo) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"-j", "four", "in", "out"}, {"-jfour", "in", "out"}, {"in", "out", "-nqjfour"}}) {
    ExpectUsageError(Convert(words),
                     Error("--threads: 'four' is not accepted; give a whole number from 0 (all "
                           "processors) to 4096") +
                         kConvertHint);
  }
  ExpectUsageError(Convert({"in", "out", "-j"}),
                   Error("option --threads needs a value; write --threads N") + kConvertHint);
  // "4" is the value of -j, "in" the command's only argument.
  ExpectUsageError({"dsv3-convert", "-j", "4", "fp8-to-bf16", "-f", "in"},
                   Error("fp8-to-bf16: missing OUT") + kSynopsis + kConvertHint);
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
                   "dsv3-inspect: error: missing IN\n"
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
  // As the shell leaves --threads="$n" where n is empty: the next word is not its value.
  ExpectUsageError(Convert({"--threads=", "4", "out"}),
                   Error("option --threads needs a value; write --threads N") + kConvertHint);
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

std::string ReshardError(const std::string& message) {
  return "dsv3-reshard: error: " + message + "\n";
}
constexpr const char* kReshardHint = "Run 'dsv3-reshard --help' to see what it accepts.\n";
constexpr const char* kReshardSynopsis = "Usage: dsv3-reshard [OPTION]... IN OUT\n";
constexpr const char* kMergeHint = "Run 'dsv3-reshard merge --help' to see what it accepts.\n";

TEST(UsageTest, CommandWithoutANameStandsBesideNamedOnes) {
  ExpectUsageError({"dsv3-reshard"},
                   ReshardError("missing IN and OUT") + kReshardSynopsis + kReshardHint);
  ExpectUsageError({"dsv3-reshard", "", "out"},
                   ReshardError("IN is empty; give a path") + kReshardSynopsis + kReshardHint);
  ExpectUsageError({"dsv3-reshard", "merge"},
                   ReshardError("merge: missing RANKS and OUT") +
                       "Usage: dsv3-reshard merge [OPTION]... RANKS OUT\n" + kMergeHint);
  ExpectUsageError({"dsv3-reshard", "in", "out", "more"},
                   ReshardError("unexpected argument 'more': dsv3-reshard takes 2") +
                       kReshardSynopsis + kReshardHint);
  ExpectUsageError({"dsv3-reshard", "mrege", "in", "out"},
                   ReshardError("unexpected argument 'out': dsv3-reshard takes 2; did you mean "
                                "'dsv3-reshard merge'?") +
                       kReshardSynopsis + kReshardHint);
  ExpectUsageError(
      {"dsv3-reshard", "merge", "in", "out", "--tp", "4"},
      ReshardError("option --tp belongs to 'dsv3-reshard', not to 'merge'") + kMergeHint);
  ExpectUsageError({"dsv3-reshard", "in", "out", "--tq", "4"},
                   ReshardError("unknown option --tq; did you mean --tp?") + kReshardHint);
  for (const std::string option : {"--tensor-parallel-size", "--tp-size"}) {
    ExpectUsageError(
        {"dsv3-reshard", "in", "out", option, "4"},
        ReshardError("unknown option " + option + "; did you mean --tp?") + kReshardHint);
  }
}

TEST(UsageTest, OptionsMayStandBeforeANamedCommandBesideAnUnnamedOne) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"dsv3-reshard", "merge", "nowhere", "out"},
        {"dsv3-reshard", "--no-progress", "--color", "never", "merge", "nowhere", "out"},
        {"dsv3-reshard", "merge", "--", "nowhere", "out"}}) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_NE(result.err.find("nowhere"), std::string::npos) << result.err;
    EXPECT_EQ(result.err.find("merge:"), std::string::npos) << result.err;
  }
}

TEST(UsageTest, DirectoryMayBeCalledLikeACommand) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"dsv3-reshard", "--tp", "2", "./merge", "out"},
        {"dsv3-reshard", "--tp", "2", "--", "merge", "out"}}) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_NE(result.err.find("merge: there is no such file or directory"), std::string::npos)
        << result.err;
  }
}

TEST(UsageTest, RanksMustBeAskedFor) {
  ExpectUsageError({"dsv3-reshard", "in", "out", "--dp", "2"},
                   ReshardError("none of --tp, --ep and --preset is given; --tp 8 cuts everything "
                                "8 ways, --tp 4 --ep 32 spreads the experts over 32 ranks of which "
                                "4 share an attention layer, and --preset deepseek-prefill adds 32 "
                                "redundant experts to that"));
}

TEST(UsageTest, OptionsOfReshardThatContradict) {
  const std::vector<std::string> call = {"dsv3-reshard", "in", "out", "--tp", "2"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = call;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  ExpectUsageError(with({"--nodes", "2"}),
                   ReshardError("--nodes says how --expert-load is balanced and has no effect "
                                "without it; add --expert-load FILE, or leave --nodes out"));
  ExpectUsageError(with({"--balance-svg", "no/such/file.svg"}),
                   ReshardError("--balance-svg: there is no directory no/such; make it, or give "
                                "another FILE"));
}

TEST(UsageTest, ValuesOfReshardAreChecked) {
  const auto expect = [](const std::string& option, const std::string& value,
                         const std::string& accepted) {
    ExpectUsageError(
        {"dsv3-reshard", "in", "out", "--" + option, value},
        ReshardError("--" + option + ": '" + value + "' is not accepted; " + accepted) +
            kReshardHint);
  };
  for (const std::string size :
       {"tp", "ep", "dp", "pp", "dense-tp", "shared-expert-tp", "embed-tp", "nodes"}) {
    expect(size, "0", "give a whole number from 1 to 65536");
    expect(size, "65537", "give a whole number from 1 to 65536");
  }
  expect("redundant-experts", "-1", "give a whole number from 0 to 1000000");
  expect("ep-placement", "", "give contiguous, round-robin or a FILE");
  expect("mtp", "maybe", "give keep or drop");
  expect("on-misaligned", "subblocks",
         "give error, replicate-module, subblock or bf16; did you mean subblock?");
  expect("preset", "deepseek-prefil",
         "give deepseek-prefill or deepseek-decode; did you mean deepseek-prefill?");
  for (const char* value : {"megatron", "keys:", "keys", ""}) {
    expect("format", value, "give hf-rank, deepseek or keys:FILE");
  }
  for (const char* value : {"", "1-", "-1", "3-2", "1,,2", "1,", "a", "1-2-3", "65536"}) {
    expect("ranks", value, "give ranks and ranges of ranks, such as 0-7 or 0,3,8-11");
  }
  for (const char* value : {"", "1", "2/2", "0/0", "-1/2", "1/2/3", "1/", "/2", "0/1000001"}) {
    expect("part", value,
           "give I/N, the I-th of N parts counted from 0, such as 0/4, 1/4, 2/4 and 3/4");
  }
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
                       "unknown command 'checksum directory'; 'checksum' is followed by create or "
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

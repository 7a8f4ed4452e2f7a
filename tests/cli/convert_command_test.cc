#include <csignal>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-convert from the outside, on a sample checkpoint.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

json Schema(const std::string& name) {
  return json::parse(
      ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas" / (name + ".schema.json")));
}

void ExpectConforms(const std::string& text, const std::string& schema) {
  ASSERT_TRUE(json::accept(text)) << text;
  EXPECT_EQ(SchemaComplaints(Schema(schema), json::parse(text)), "");
}

class ConvertCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    in_ = (dir_ / "in").string();
    out_ = (dir_ / "out").string();
    const ToolResult made = RunTool({"dsv3-convert", "sample", in_, "--seed", "7", "--quiet"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    ASSERT_EQ(made.out, "");
    ASSERT_EQ(made.err, "");
  }

  ToolResult Convert(std::vector<std::string> options) const {
    options.insert(options.begin(), {"dsv3-convert", "fp8-to-bf16", in_, out_});
    return RunTool(options);
  }

  TempDir dir_;
  std::string in_;
  std::string out_;
};

TEST_F(ConvertCommandTest, ConvertsAndSaysWhatItDid) {
  const ToolResult result = Convert({});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err,
            "dsv3-convert: checking scales\n"
            "dsv3-convert: converting\n");
  EXPECT_THAT(result.out, HasSubstr("Converted FP8 to BF16: " + out_ + "\n"));
  EXPECT_THAT(result.out, HasSubstr("  manifest    " + out_ + "/checkpoint.manifest.json\n"));
  EXPECT_TRUE(std::filesystem::exists(out_ + "/model.safetensors.index.json"));
}

TEST_F(ConvertCommandTest, TrainToInferReportsTheTensorsThatItDrops) {
  const std::vector<std::string> command = {
      "dsv3-convert", "train-to-infer", "--mtp", "drop", in_, out_};
  const auto with = [&](const std::string& option) {
    std::vector<std::string> words = command;
    words.push_back(option);
    return RunTool(words);
  };
  const ToolResult planned = with("--dry-run");
  EXPECT_THAT(planned.out, HasSubstr("  dropped     76 tensors of MTP layers\n"));
  EXPECT_FALSE(std::filesystem::exists(out_));
  const ToolResult done = with("--json");
  ASSERT_EQ(done.exit_code, 0) << done.err;
  ExpectConforms(done.out, "convert-report");
  EXPECT_EQ(json::parse(done.out)["command"], "train-to-infer");
  EXPECT_EQ(json::parse(done.out)["dropped"].size(), 76U);
  EXPECT_EQ(RunTool({"dsv3-convert", "train-to-infer", in_, out_}).exit_code, 2);
  EXPECT_EQ(RunTool({"dsv3-convert", "train-to-infer", "--mtp", "keep", in_, out_}).exit_code, 2);
}

TEST_F(ConvertCommandTest, WarnsOfPagesThatWereNeverWritten) {
  // The page is within one tensor, which has other values.
  const std::string shard = in_ + "/model-00001-of-00004.safetensors";
  std::string bytes = ReadFile(shard);
  const json inspected = json::parse(
      RunTool({"dsv3-inspect", in_, "--tensor", "model.embed_tokens.weight", "--json"}).out);
  const std::size_t begin = inspected["offset"].get<std::size_t>() + 1000;
  bytes.replace(begin, 4096, 4096, '\0');
  WriteFile(shard, bytes);
  const ToolResult result = Convert({});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("warning: tensor 'model.embed_tokens.weight' has 1 zero run "
                                    "(2048 zero bytes or more), which no trained weight has"));
  EXPECT_THAT(result.out, HasSubstr("  holes       1 zero run in 1 tensor\n"));
  std::filesystem::remove_all(out_);
  const ToolResult report = Convert({"--json"});
  ExpectConforms(report.out, "convert-report");
  EXPECT_EQ(json::parse(report.out)["zero_runs"].size(), 1U);
  const ToolResult judged = RunTool({"dsv3-verify", "numeric", in_, "--quiet"});
  EXPECT_EQ(judged.exit_code, 1);
  EXPECT_THAT(judged.out, HasSubstr("FAILED: "));
}

TEST_F(ConvertCommandTest, WarnsOfWeightsThatWereNeverWritten) {
  // A download with a hole: the file's last part has its length, but it is zero.
  const std::string shard = in_ + "/model-00002-of-00004.safetensors";
  std::string bytes = ReadFile(shard);
  const std::size_t hole = bytes.size() * 3 / 4;
  bytes.replace(bytes.size() - hole, hole, hole, '\0');
  WriteFile(shard, bytes);
  const ToolResult result = Convert({});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err,
              HasSubstr("' is all zero; if the model was trained, a part of its file was never "
                        "written: check IN with dsv3-verify numeric\n"));
  EXPECT_THAT(result.err, HasSubstr(" all zero as well; --json lists all of them\n"));
  EXPECT_THAT(result.out, ContainsRegex("  all zero    [0-9]+ weights\n"));
  std::filesystem::remove_all(out_);
  const ToolResult report = Convert({"--json"});
  ExpectConforms(report.out, "convert-report");
  EXPECT_GT(json::parse(report.out)["all_zero"].size(), 5U);
  for (const std::string& checkpoint : {in_, out_}) {
    const ToolResult judged = RunTool({"dsv3-verify", "numeric", checkpoint, "--quiet"});
    EXPECT_EQ(judged.exit_code, 1) << checkpoint;
    EXPECT_THAT(judged.out, HasSubstr("FAILED: "));
  }
  const std::string back = (dir_ / "back").string();
  EXPECT_THAT(RunTool({"dsv3-convert", "bf16-to-fp8", out_, back}).err,
              HasSubstr("' is all zero;"));
}

TEST_F(ConvertCommandTest, SecondRunHasNothingToDoAndTouchesNothing) {
  ASSERT_EQ(Convert({"--quiet"}).exit_code, 0);
  const auto before = ReadTree(out_);
  const ToolResult again = Convert({"--no-progress"});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_EQ(again.err, "");
  EXPECT_THAT(again.out, HasSubstr("Nothing to do: " + out_ + " holds the finished result"));
  EXPECT_EQ(ReadTree(out_), before);
  const ToolResult report = Convert({"--json"});
  ExpectConforms(report.out, "convert-report");
  EXPECT_EQ(json::parse(report.out)["outcome"], "nothing-to-do");
}

TEST_F(ConvertCommandTest, QuietSaysNothing) {
  const ToolResult result = Convert({"-q"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "");
}

TEST_F(ConvertCommandTest, QuietKeepsWhatInspectWasAskedFor) {
  const ToolResult result = RunTool({"dsv3-inspect", "--quiet", in_});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("parameters"));
  EXPECT_EQ(result.err, "");
}

TEST_F(ConvertCommandTest, JsonReportConformsToItsSchema) {
  const ToolResult result = Convert({"--json", "--quiet"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  ExpectConforms(result.out, "convert-report");
  const json report = json::parse(result.out);
  EXPECT_EQ(report["outcome"], "converted");
  EXPECT_EQ(report["input"], in_);
  EXPECT_TRUE(report["plan"].is_null());
  ASSERT_FALSE(report["files"].empty());
  for (const json& file : report["files"]) {
    EXPECT_EQ(file["bytes"],
              std::filesystem::file_size(std::filesystem::path(out_) / file["name"]));
    EXPECT_TRUE(file["sha256"].is_string());
  }
}

TEST_F(ConvertCommandTest, ChecksumNoneLeavesTheHashesOut) {
  const ToolResult result = Convert({"--json", "--quiet", "--checksum=none"});
  ExpectConforms(result.out, "convert-report");
  const json report = json::parse(result.out);
  for (const json& file : report["files"]) EXPECT_TRUE(file["sha256"].is_null());
}

TEST_F(ConvertCommandTest, DryRunWritesNothingAndTellsTheExactFiles) {
  const ToolResult text = Convert({"--dry-run"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, HasSubstr("Plan for " + out_ + " (nothing was written)\n"));
  EXPECT_THAT(text.out, HasSubstr("\n  fits        yes\n"));
  const ToolResult result = Convert({"-n", "--json"});
  EXPECT_FALSE(std::filesystem::exists(out_));
  ExpectConforms(result.out, "convert-report");
  const json plan = json::parse(result.out);
  EXPECT_EQ(plan["outcome"], "planned");
  EXPECT_EQ(plan["plan"]["fits"], true);
  const json done = json::parse(Convert({"--json", "--quiet"}).out);
  ASSERT_EQ(plan["files"].size(), done["files"].size());
  for (std::size_t i = 0; i < plan["files"].size(); ++i) {
    EXPECT_EQ(plan["files"][i]["name"], done["files"][i]["name"]);
    EXPECT_EQ(plan["files"][i]["bytes"], done["files"][i]["bytes"]);
  }
}

TEST_F(ConvertCommandTest, OptionsMayStandBeforeTheCommand) {
  const ToolResult result = RunTool({"dsv3-convert", "--threads", "1", "--json", "--memory=200MB",
                                     "-q", "fp8-to-bf16", in_, "--checksum", "none", out_});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  ExpectConforms(result.out, "convert-report");
}

TEST_F(ConvertCommandTest, OfAnOptionGivenTwiceTheLastCounts) {
  const ToolResult result = Convert({"--checksum", "sha256", "--checksum", "none", "--json", "-q"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(json::parse(result.out)["files"][0]["sha256"].is_null());
}

TEST_F(ConvertCommandTest, AnotherCommandOnAFinishedOutputIsRefused) {
  ASSERT_EQ(Convert({"-q"}).exit_code, 0);
  const auto before = ReadTree(out_);
  const ToolResult result = Convert({"--checksum", "none"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("--overwrite"));
  EXPECT_EQ(ReadTree(out_), before);
  EXPECT_EQ(Convert({"--checksum", "none", "--overwrite"}).exit_code, 0);
}

TEST_F(ConvertCommandTest, MissingInputIsAJsonErrorThatNamesIt) {
  const ToolResult result = RunTool({"dsv3-convert", "fp8-to-bf16", "nowhere", out_, "--json"});
  EXPECT_EQ(result.exit_code, 3);
  ExpectConforms(result.out, "error");
  const json error = json::parse(result.out)["error"];
  EXPECT_EQ(error["code"], "bad-input");
  EXPECT_EQ(error["file"], "nowhere");
  EXPECT_THAT(result.err, MatchesRegex("dsv3-convert: error: nowhere: .*\n"));
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(ConvertCommandTest, AJsonErrorNamesADirectoryAsItWasGiven) {
  const std::filesystem::path place = std::filesystem::path(in_).parent_path();
  const std::string name = std::filesystem::path(in_).filename().string();
  const ToolResult result =
      RunTool({"dsv3-convert", "train-to-infer", "--mtp", "keep", "--from", "megatron", name,
               "out-of-training", "--json"},
              {.environment = {}, .directory = place.string(), .stdout_to = ""});
  EXPECT_EQ(result.exit_code, 3);
  ExpectConforms(result.out, "error");
  const json error = json::parse(result.out)["error"];
  EXPECT_EQ(error["file"], name);
  EXPECT_THAT(error["message"].get<std::string>(),
              ::testing::StartsWith(name + ": this is a checkpoint with Hugging"));
}

TEST_F(ConvertCommandTest, DeletingTheSourceNeedsYesOffATerminal) {
  const auto before = ReadTree(in_);
  const ToolResult refused = Convert({"--delete-source-shards"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_EQ(refused.err,
            "dsv3-convert: error: --delete-source-shards deletes the source while it converts, "
            "and there is no terminal to ask on; add --yes if that is what you want\n");
  EXPECT_EQ(ReadTree(in_), before);
  EXPECT_FALSE(std::filesystem::exists(out_));
  const ToolResult planned = Convert({"--delete-source-shards", "--dry-run"});
  EXPECT_THAT(planned.out, HasSubstr("  to delete   4 files ("));
  EXPECT_THAT(planned.out, HasSubstr("4 files in " + in_ + ": frees "));
  EXPECT_THAT(planned.out, ::testing::Not(HasSubstr("hard links")));
  const std::string shard = in_ + "/model-00001-of-00004.safetensors";
  std::filesystem::create_hard_link(shard, shard + ".link");
  EXPECT_THAT(Convert({"--delete-source-shards", "--dry-run"}).out,
              HasSubstr("; 1 has further names elsewhere (hard links), which keep the bytes"));
  std::filesystem::remove(shard + ".link");
  const ToolResult done = Convert({"--delete-source-shards", "--yes", "--json", "-q"});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  ExpectConforms(done.out, "convert-report");
  EXPECT_EQ(json::parse(done.out)["freed_source_shards"], 4);
  EXPECT_GT(json::parse(done.out)["freed_source_bytes"], 0);
  EXPECT_EQ(json::parse(done.out)["source_deletions"][0]["file"],
            in_ + "/model-00001-of-00004.safetensors");
  EXPECT_FALSE(std::filesystem::exists(in_ + "/model-00001-of-00004.safetensors"));
}

TEST_F(ConvertCommandTest, StdoutThatCannotBeWrittenIsAnIoError) {
  ToolSetting full;
  full.stdout_to = "/dev/full";
  const ToolResult result = RunTool({"dsv3-convert", "--version"}, full);
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.err,
            "dsv3-convert: error: cannot write to the standard output: No space left on device; "
            "send it to a file or a terminal that can take it\n");
  ToolSetting closed;
  closed.stdout_to = "closed";
  const ToolResult report = RunTool({"dsv3-convert", "fp8-to-bf16", in_, out_, "--json"}, closed);
  EXPECT_EQ(report.exit_code, 4);
  EXPECT_THAT(report.err, HasSubstr("cannot write to the standard output: Bad file descriptor"));
  EXPECT_EQ(Convert({"-q"}).exit_code, 0) << "the conversion itself was done";
}

TEST_F(ConvertCommandTest, ReaderThatWentAwayEndsItQuietly) {
  ToolSetting setting;
  setting.stdout_to = "nobody";
  const ToolResult result = RunTool({"dsv3-convert", "--help"}, setting);
  EXPECT_EQ(result.exit_code, 128 + SIGPIPE);
  EXPECT_EQ(result.err, "");
}

TEST_F(ConvertCommandTest, ColourFollowsTheEnvironmentAndTheOption) {
  const auto error = [&](std::vector<std::string> options,
                         std::map<std::string, std::string> environment) {
    options.insert(options.begin(), {"dsv3-convert", "fp8-to-bf16", "nowhere", out_});
    ToolSetting setting;
    setting.environment = std::move(environment);
    return RunTool(options, setting).err;
  };
  const std::string red = "\x1b[1;31merror:\x1b[0m";
  EXPECT_THAT(error({}, {}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(error({"--color=always"}, {}), HasSubstr(red));
  EXPECT_THAT(error({"--color", "always"}, {{"NO_COLOR", "1"}}), HasSubstr(red));
  EXPECT_THAT(error({}, {{"FORCE_COLOR", "1"}}), HasSubstr(red));
  EXPECT_THAT(error({}, {{"CLICOLOR_FORCE", "1"}}), HasSubstr(red));
  EXPECT_THAT(error({}, {{"CLICOLOR_FORCE", "0"}}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(error({}, {{"FORCE_COLOR", "1"}, {"NO_COLOR", "1"}}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(error({}, {{"FORCE_COLOR", "1"}, {"NO_COLOR", ""}}), HasSubstr(red));
  EXPECT_THAT(error({"--color=never"}, {{"FORCE_COLOR", "1"}}), Not(HasSubstr("\x1b")));
}

TEST(SampleCommandTest, ReportConformsToItsSchemaAndTellsTheTruth) {
  const TempDir dir;
  const std::string out = (dir / "sample").string();
  const ToolResult result =
      RunTool({"dsv3-convert", "sample", out, "--preset", "tiny", "--seed", "3", "--json", "-q"});
  EXPECT_EQ(result.exit_code, 0);
  ExpectConforms(result.out, "sample-report");
  const json report = json::parse(result.out);
  EXPECT_EQ(report["seed"], 3);
  EXPECT_EQ(report["files"], ReadTree(out).size());
}

TEST(SampleCommandTest, DirectoryThatIsNotEmptyIsRefused) {
  const TempDir dir;
  WriteFile(dir / "note.txt", "mine");
  const ToolResult result = RunTool({"dsv3-convert", "sample", dir.path().string()});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, MatchesRegex("dsv3-convert: error: .*\n"));
  EXPECT_EQ(ReadTree(dir.path()).size(), 1U);
}

}  // namespace
}  // namespace dsv3::testing

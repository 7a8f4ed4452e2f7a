#include <csignal>
#include <cstddef>
#include <filesystem>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// What happens on a terminal only: the bar, questions, Ctrl-C.
namespace dsv3::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kClearLine = "\r\x1b[K";

class TerminalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    in_ = (dir_ / "in").string();
    out_ = (dir_ / "out").string();
    ASSERT_EQ(RunTool({"dsv3-convert", "sample", in_, "-q"}).exit_code, 0);
  }

  TempDir dir_;
  std::string in_;
  std::string out_;
};

TEST_F(TerminalTest, BarIsDrawnOverAndGoneAtTheEnd) {
  TerminalRun run({"dsv3-convert", "fp8-to-bf16", in_, out_});
  EXPECT_EQ(run.Wait(), 0);
  EXPECT_THAT(run.screen(),
              HasSubstr("converting    0%  0 bytes / 10.1 MB  [....................]"));
  const std::size_t report = run.screen().find("Converted FP8 to BF16: ");
  ASSERT_NE(report, std::string::npos) << run.screen();
  ASSERT_GE(report, kClearLine.size());
  EXPECT_EQ(run.screen().substr(report - kClearLine.size(), kClearLine.size()), kClearLine)
      << "the bar is cleared before the report";
  EXPECT_EQ(run.screen().find(kClearLine, report), std::string::npos);
}

TEST_F(TerminalTest, NoBarWhereItIsNotWanted) {
  TerminalRun quiet({"dsv3-convert", "fp8-to-bf16", in_, out_, "--quiet"});
  EXPECT_EQ(quiet.Wait(), 0);
  EXPECT_EQ(quiet.screen(), "");
  TerminalRun plain({"dsv3-convert", "fp8-to-bf16", in_, out_ + "2", "--no-progress"});
  EXPECT_EQ(plain.Wait(), 0);
  EXPECT_THAT(plain.screen(), Not(HasSubstr("converting")));
  ToolSetting dumb;
  dumb.environment["TERM"] = "dumb";
  TerminalRun lines({"dsv3-convert", "fp8-to-bf16", in_, out_ + "3"}, dumb);
  EXPECT_EQ(lines.Wait(), 0);
  EXPECT_THAT(lines.screen(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(lines.screen(), HasSubstr("dsv3-convert: converting\r\n"));
}

TEST_F(TerminalTest, WarningScrollsAboveTheBar) {
  WriteFile(in_ + "/unlisted.safetensors", ReadFile(in_ + "/model-00001-of-00004.safetensors"));
  TerminalRun run({"dsv3-convert", "fp8-to-bf16", in_, out_});
  EXPECT_EQ(run.Wait(), 0);
  EXPECT_THAT(run.screen(), HasSubstr("dsv3-convert: \x1b[1;33mwarning:\x1b[0m "));
  EXPECT_THAT(run.screen(), HasSubstr("unlisted.safetensors"));
  EXPECT_THAT(run.screen(), HasSubstr("  warnings    1 warning, printed above\r\n"));
}

TEST_F(TerminalTest, ErrorsHaveColourOnATerminalUnlessItIsUnwanted) {
  TerminalRun red({"dsv3-inspect", "nowhere"});
  EXPECT_EQ(red.Wait(), 3);
  EXPECT_THAT(red.screen(), HasSubstr("\x1b[1;31merror:\x1b[0m"));
  ToolSetting setting;
  setting.environment["NO_COLOR"] = "1";
  TerminalRun plain({"dsv3-inspect", "nowhere"}, setting);
  EXPECT_EQ(plain.Wait(), 3);
  EXPECT_THAT(plain.screen(), Not(HasSubstr("\x1b")));
}

TEST_F(TerminalTest, DeletingTheSourceIsAskedTwice) {
  TerminalRun run({"dsv3-convert", "fp8-to-bf16", in_, out_, "--delete-source-shards"});
  ASSERT_TRUE(run.WaitFor("Delete them? Type yes to go on: ")) << run.screen();
  EXPECT_THAT(run.screen(), HasSubstr("--delete-source-shards deletes 4 files ("));
  EXPECT_THAT(run.screen(), HasSubstr(in_));
  run.Type("yes\n");
  ASSERT_TRUE(run.WaitFor("Are you sure? Type delete to go on: ")) << run.screen();
  EXPECT_FALSE(std::filesystem::exists(out_)) << "nothing begins before both answers";
  run.Type("delete\n");
  EXPECT_EQ(run.Wait(), 0) << run.screen();
  EXPECT_THAT(run.screen(), HasSubstr("  deleted     4 source shards\r\n"));
  EXPECT_THAT(run.screen(), HasSubstr("  freed       4 files ("));
  EXPECT_THAT(run.screen(), HasSubstr("4 files in " + in_ + ": frees "));
  EXPECT_FALSE(std::filesystem::exists(in_ + "/model-00001-of-00004.safetensors"));
}

TEST_F(TerminalTest, TheQuestionSaysWhichFilesStayBehindLinks) {
  std::filesystem::rename(in_, in_ + "-theirs");
  std::filesystem::create_directory(in_);
  for (const auto& [name, content] : ReadTree(in_ + "-theirs")) {
    std::filesystem::create_symlink(in_ + "-theirs/" + name, in_ + "/" + name);
  }
  TerminalRun run({"dsv3-convert", "bf16-to-fp8", in_, out_, "--delete-source-shards"});
  ASSERT_TRUE(run.WaitFor("Delete them? Type yes to go on: ")) << run.screen();
  EXPECT_THAT(run.screen(), HasSubstr("deletes 0 files (0 bytes) and 4 links of the source:\r\n"));
  EXPECT_THAT(run.screen(),
              HasSubstr("  4 links in " + in_ + ": frees nothing; " + in_ +
                        "-theirs stays unchanged, it is not in the directory that was named"));
  EXPECT_THAT(run.screen(), Not(HasSubstr("FP8 weights")));
  run.Type("no\n");
  EXPECT_EQ(run.Wait(), 5);
}

TEST_F(TerminalTest, AnyOtherAnswerDeletesNothing) {
  const auto before = ReadTree(in_);
  TerminalRun first({"dsv3-convert", "fp8-to-bf16", in_, out_, "--delete-source-shards"});
  ASSERT_TRUE(first.WaitFor("go on: "));
  first.Type("y\n");
  EXPECT_EQ(first.Wait(), 5);
  EXPECT_THAT(first.screen(), HasSubstr("not confirmed, so nothing was read, written or deleted"));
  TerminalRun second({"dsv3-convert", "fp8-to-bf16", in_, out_, "--delete-source-shards"});
  ASSERT_TRUE(second.WaitFor("yes to go on: "));
  second.Type("yes\n");
  ASSERT_TRUE(second.WaitFor("delete to go on: "));
  second.Type("yes\n");
  EXPECT_EQ(second.Wait(), 5);
  EXPECT_EQ(ReadTree(in_), before);
  EXPECT_FALSE(std::filesystem::exists(out_));
}

// The question holds the tool at a known place, so that a signal needs no luck to meet it.
TEST_F(TerminalTest, CtrlCEndsAToolThatDoesNotAnswerAnyMore) {
  TerminalRun run({"dsv3-convert", "fp8-to-bf16", in_, out_, "--delete-source-shards", "--json"});
  ASSERT_TRUE(run.WaitFor("go on: "));
  run.Type("\x03");
  EXPECT_EQ(run.Wait(), 5);
  EXPECT_THAT(run.screen(),
              HasSubstr("dsv3-convert: stopping; run the same command again to continue"));
  EXPECT_THAT(run.screen(), HasSubstr("\"code\": \"interrupted\""));
}

TEST_F(TerminalTest, SecondSignalEndsItAtOnce) {
  TerminalRun run({"dsv3-convert", "fp8-to-bf16", in_, out_, "--delete-source-shards"});
  ASSERT_TRUE(run.WaitFor("go on: "));
  run.Signal(SIGTERM);
  ASSERT_TRUE(run.WaitFor("stopping; "));
  run.Signal(SIGHUP);
  EXPECT_EQ(run.Wait(), 5);
}

TEST_F(TerminalTest, SignalIgnoredFromTheStartStaysIgnored) {
  TerminalRun run({"/bin/sh", "-c",
                   "trap '' HUP; exec " DSV3_BIN_DIR "/dsv3-convert fp8-to-bf16 " + in_ + " " +
                       out_ + " --delete-source-shards"});
  ASSERT_TRUE(run.WaitFor("go on: "));
  run.Signal(SIGHUP);
  run.Type("no\n");
  EXPECT_EQ(run.Wait(), 5);
  EXPECT_THAT(run.screen(), Not(HasSubstr("stopping")));
  EXPECT_THAT(run.screen(), HasSubstr("not confirmed"));
}

// Fewer columns where the terminal is narrow, all of them where there is room or no terminal.
TEST_F(TerminalTest, TheTableOfDifferencesFits) {
  const std::string other = (dir_ / "other").string();
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", other, "--seed", "2", "-q"}).exit_code, 0);
  const auto table = [](const std::string& text) {
    const std::size_t begin = text.find("tensor  ");
    return text.substr(begin, text.find(" more (--all shows them)", begin) - begin);
  };
  const auto on_terminal = [&](const std::string& columns) {
    TerminalRun run({"/bin/sh", "-c",
                     "stty cols " + columns + "; exec " DSV3_BIN_DIR "/dsv3-verify compare " + in_ +
                         " " + other + " --no-progress"});
    EXPECT_EQ(run.Wait(), 1);
    return table(run.screen());
  };
  const std::string narrow = on_terminal("80");
  EXPECT_THAT(narrow, HasSubstr("differing  max |a-b|  relative"));
  EXPECT_THAT(narrow, HasSubstr(" %  "));
  std::istringstream lines(narrow);
  for (std::string line; std::getline(lines, line);) {
    // Neither the end of the line nor the second and third byte of "…" takes a column.
    std::erase_if(line, [](char c) { return c == '\r' || (c & 0xC0) == 0x80; });
    EXPECT_LE(line.size(), 80U) << line;
  }
  const std::string all = "max |a-b|  max |a-b|/|b|";
  EXPECT_THAT(on_terminal("200"), HasSubstr(all));
  EXPECT_THAT(table(RunTool({"dsv3-verify", "compare", in_, other, "--no-progress"}).out),
              HasSubstr(all));
}

// The lists of tensors and of what they were made of; a pipe gets all of them.
TEST_F(TerminalTest, ListsOfTensorsFit) {
  const std::string out = (dir_ / "bf16").string();
  ASSERT_EQ(RunTool({"dsv3-convert", "fp8-to-bf16", in_, out, "-q"}).exit_code, 0);
  const std::vector<std::vector<std::string>> lists = {{"dsv3-inspect", "--list", in_},
                                                       {"dsv3-verify", "provenance", out}};
  for (const std::vector<std::string>& words : lists) {
    std::string command = "stty cols 80; exec " DSV3_BIN_DIR;
    for (const std::string& word : words) command += (&word == words.data() ? "/" : " ") + word;
    TerminalRun run({"/bin/sh", "-c", command});
    EXPECT_EQ(run.Wait(), 0);
    EXPECT_THAT(run.screen(), HasSubstr("mlp.down_proj.weight"));
    std::istringstream lines(run.screen());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("  options ")) continue;  // JSON has no space to break it at
      std::erase_if(line, [](char c) { return c == '\r' || (c & 0xC0) == 0x80; });
      EXPECT_LE(line.size(), 80U) << line;
    }
    EXPECT_THAT(
        RunTool(words).out,
        ::testing::ContainsRegex("model\\.layers\\.0\\.self_attn\\.kv_a_proj_with_mqa\\.weight"
                                 "|[0-9a-f]{32}  copy"));
  }
}

}  // namespace
}  // namespace dsv3::testing

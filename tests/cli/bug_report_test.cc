#include <cerrno>
#include <cstdlib>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/tool_main.h"
#include "cli/verify_report.h"
#include "formats/error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

using ::testing::HasSubstr;

const std::string kBug =
    "this is a bug of dsv3-bug: a count that cannot be; please report it in the project's issue "
    "tracker with the command that you ran, or as SECURITY.md says where a file from others";

class BugReportTest : public ::testing::Test {
 protected:
  void SetUp() override { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }

  // Runs a tool whose command calls `run`, and ends the process with its exit code.
  [[noreturn]] static void RunTool(const std::function<void(cli::CommandContext&)>& run) {
    const auto make_tool = [&run] {
      cli::Command command;
      command.run = [&run](cli::CommandContext& context) -> std::string {
        run(context);
        return "";
      };
      cli::Tool tool;
      tool.name = "dsv3-bug";
      tool.commands = {command};
      return tool;
    };
    std::string name = "dsv3-bug";
    char* words[] = {name.data(), nullptr};
    std::exit(cli::ToolMain(make_tool, 1, words));
  }
};

TEST_F(BugReportTest, EveryBugSaysWhereItIsReported) {
  EXPECT_EXIT(
      RunTool([](cli::CommandContext&) { throw std::logic_error("a count that cannot be"); }),
      ::testing::ExitedWithCode(70), kBug);
  EXPECT_EXIT(RunTool([](cli::CommandContext&) {
                throw Error(ErrorCode::kInternal, "a count that cannot be");
              }),
              ::testing::ExitedWithCode(70), kBug);
  EXPECT_EXIT(RunTool([](cli::CommandContext&) { throw 7; }), ::testing::ExitedWithCode(70),
              "this is a bug of dsv3-bug: an exception of an unknown type; please report it");
}

TEST_F(BugReportTest, AnExceptionThatNobodyCatchesSaysSo) {
  const auto throws = [] { throw std::logic_error("a count that cannot be"); };
  EXPECT_EXIT(RunTool([&](cli::CommandContext&) { std::thread(throws).join(); }),
              ::testing::ExitedWithCode(70),
              "error: this is a bug of .*: a count that cannot be; please report it");
}

TEST_F(BugReportTest, OtherErrorsDoNot) {
  EXPECT_EXIT(RunTool([](cli::CommandContext&) { throw Error(ErrorCode::kBadInput, "it is bad"); }),
              ::testing::ExitedWithCode(3), "dsv3-bug: error: it is bad\n");
  EXPECT_EXIT(RunTool([](cli::CommandContext&) { throw std::bad_alloc(); }),
              ::testing::ExitedWithCode(4), "out of memory; end other programs, or give");
  const std::string refused = "the system allows no further thread; raise the limit";
  EXPECT_EXIT(RunTool([](cli::CommandContext&) {
                throw std::system_error(EAGAIN, std::generic_category());
              }),
              ::testing::ExitedWithCode(4), refused);
  // As oneTBB says it.
  EXPECT_EXIT(
      RunTool([](cli::CommandContext&) {
        throw std::runtime_error("pthread_create has failed: Resource temporarily unavailable");
      }),
      ::testing::ExitedWithCode(4), refused);
}

TEST_F(BugReportTest, ABugInACheckIsInItsFilesOfFindings) {
  // The child must write to this process's directory.
  ::testing::FLAGS_gtest_death_test_style = "fast";
  const TempDir dir;
  cli::VerifyOptions options;
  options.junit = (dir / "junit.xml").string();
  EXPECT_EXIT(RunTool([&](cli::CommandContext& context) {
                cli::RunCheck(dir.path().string(), options, context, []() -> cli::VerifyReport {
                  throw std::logic_error("a count that cannot be");
                });
              }),
              ::testing::ExitedWithCode(70), kBug);
  EXPECT_THAT(ReadFile(dir / "junit.xml"), HasSubstr("this is a bug of dsv3-bug: a count that"));
}

}  // namespace
}  // namespace dsv3::testing

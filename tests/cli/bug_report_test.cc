#include <cstdlib>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include "cli/tool_main.h"

namespace dsv3::testing {
namespace {

cli::Tool ToolWithABug() {
  cli::Command command;
  command.run = [](cli::CommandContext& /*context*/) -> std::string {
    throw std::logic_error("a count that cannot be");
  };
  cli::Tool tool;
  tool.name = "dsv3-bug";
  tool.commands = {command};
  return tool;
}

TEST(BugReportTest, ABugSaysWhereItIsReported) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  std::string name = "dsv3-bug";
  char* words[] = {name.data(), nullptr};
  EXPECT_EXIT(
      std::exit(cli::ToolMain(ToolWithABug, 1, words)), ::testing::ExitedWithCode(70),
      "this is a bug of dsv3-bug: a count that cannot be; please report it in the project's "
      "issue tracker with the command that you ran, or as SECURITY.md says");
}

}  // namespace
}  // namespace dsv3::testing

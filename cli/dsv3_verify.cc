#include "cli/help.h"
#include "cli/tool_main.h"

int main(int argc, char** argv) {
  const auto make_tool = [] {
    dsv3::cli::Tool tool;
    tool.name = "dsv3-verify";
    tool.summary = "check the integrity of checkpoints";
    tool.description = {dsv3::cli::NoJobsMessage(tool) + "."};
    tool.see_also = {"dsv3-convert", "dsv3-inspect"};
    return tool;
  };
  return dsv3::cli::ToolMain(make_tool, argc, argv);
}

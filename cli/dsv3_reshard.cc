#include "cli/commands.h"
#include "cli/tool_main.h"
#include "convert/scaleout/process_group.h"

int main(int argc, char** argv) {
  const auto make_tool = [] {
    dsv3::cli::Tool tool;
    tool.name = "dsv3-reshard";
    tool.commands.push_back(dsv3::cli::ReshardCommand());
    tool.commands.push_back(dsv3::cli::MergeCommand());
    tool.summary = tool.commands[0].summary;
    tool.description = tool.commands[0].description;
    tool.see_also = {"dsv3-convert", "dsv3-inspect", "dsv3-verify"};
    return tool;
  };
  return dsv3::cli::ToolMain(make_tool, argc, argv, dsv3::convert::JoinProcessGroup);
}

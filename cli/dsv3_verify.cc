#include "cli/commands.h"
#include "cli/tool_main.h"

int main(int argc, char** argv) {
  const auto make_tool = [] {
    dsv3::cli::Tool tool;
    tool.name = "dsv3-verify";
    tool.summary = "check the integrity of checkpoints";
    tool.description = {
        "Checks checkpoints of the DeepSeek-V3 family, from bytes to meaning: checksums, "
        "structure, "
        "values, provenance and signatures. Findings are the report, on the standard output; the "
        "exit code is 0 where a check passes, 1 where it found something, and others are errors "
        "of the run itself."};
    tool.commands.push_back(dsv3::cli::AllChecksCommand());
    tool.commands.push_back(dsv3::cli::ChecksumCreateCommand());
    tool.commands.push_back(dsv3::cli::ChecksumCheckCommand());
    tool.commands.push_back(dsv3::cli::StructureCommand());
    tool.commands.push_back(dsv3::cli::NumericCommand());
    tool.commands.push_back(dsv3::cli::CompareCommand());
    tool.commands.push_back(dsv3::cli::ForwardCommand());
    tool.commands.push_back(dsv3::cli::ProvenanceCommand());
    tool.commands.push_back(dsv3::cli::SignCommand());
    tool.commands.push_back(dsv3::cli::VerifySignatureCommand());
    tool.see_also = {"dsv3-convert", "dsv3-inspect"};
    return tool;
  };
  return dsv3::cli::ToolMain(make_tool, argc, argv);
}

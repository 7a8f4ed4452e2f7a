#include "cli/commands.h"
#include "cli/tool_main.h"
#include "convert/scaleout/process_group.h"

int main(int argc, char** argv) {
  const auto make_tool = [] {
    dsv3::cli::Tool tool;
    tool.name = "dsv3-convert";
    tool.summary = "convert checkpoints of the DeepSeek-V3 family";
    tool.description = {
        "Converts checkpoints of the DeepSeek-V3 family on a CPU, streaming: memory stays small "
        "whatever the size of the model, and an interrupted run continues where it was."};
    tool.commands.push_back(dsv3::cli::Fp8ToBf16Command());
    tool.commands.push_back(dsv3::cli::Bf16ToFp8Command());
    tool.commands.push_back(dsv3::cli::DequantizeCommand());
    tool.commands.push_back(dsv3::cli::QuantizeCommand());
    tool.commands.push_back(dsv3::cli::RepackCommand());
    tool.commands.push_back(dsv3::cli::TrainToInferCommand());
    tool.commands.push_back(dsv3::cli::LayoutCommand());
    tool.commands.push_back(dsv3::cli::ToGgufCommand());
    tool.commands.push_back(dsv3::cli::PackCommand());
    tool.commands.push_back(dsv3::cli::UnpackCommand());
    tool.commands.push_back(dsv3::cli::SampleCommand());
    tool.see_also = {"dsv3-inspect"};
    return tool;
  };
  return dsv3::cli::ToolMain(make_tool, argc, argv, dsv3::convert::JoinProcessGroup);
}

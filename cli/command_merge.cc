#include <filesystem>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/conversion_report.h"
#include "cli/reshard_report.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/reshard_job.h"

namespace dsv3::cli {

namespace {

struct Options : ConversionOptions {
  std::filesystem::path config;
};

std::string Run(const Options& options, CommandContext& context) {
  const convert::JobRequest request = RequestOf(options, context);
  const convert::MergeReport report =
      convert::Merge(request, formats::PosixFileSystem(), context.progress, context.stop,
                     {.demo_config = options.config});
  WarnOfCounts(report.conversion, context.progress);
  return context.output.json ? MergeReportJson(request, report, context.tool.name)
                             : MergeReportText(request, report);
}

}  // namespace

Command MergeCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "merge";
  command.summary = "put rank shards together into the checkpoint that they were cut from";
  command.description = {
      "Puts the rank shards in RANKS together again and writes the checkpoint that they were cut "
      "from to OUT: the original files, byte for byte. Tensors that the shards do not hold, such "
      "as MTP layers that were dropped or FP8 weights that became BF16, cannot come back; the "
      "report says so.",
      "RANKS may also hold the files of DeepSeek's inference demo (model0-mp8.safetensors and so "
      "on), which convert.py or another tool made: with --config FILE they become a Hugging Face "
      "checkpoint again, with the same bytes in each tensor, in new shards.",
      "The digests that layout.json gives are checked while the shards are read, and files "
      "appear in OUT under their names only when all of them are right. After an interruption the "
      "same command continues."};
  command.arguments = {
      {"RANKS", "The directory of rank shards, with its layout.json, or of the demo's files.",
       &options->input},
      OutputArgument(&options->output)};
  command.options = RunOptionTable(&options->run);
  // Rank shards are not packed.
  std::erase_if(command.options, [](const Option& option) { return option.name == "base"; });
  command.options.push_back(PathOption(
      "config", "FILE", PathUse::kInputFile, &options->config,
      "The model's config.json as on Hugging Face, for files of DeepSeek's inference demo, "
      "which do not hold it. The number of MTP layers in it becomes what the files hold."));
  command.examples = {{"merge ranks DeepSeek-V3", "Get the original files back"},
                      {"merge --config DeepSeek-V3/config.json demo DeepSeek-V3-again",
                       "Make a checkpoint of the demo's files"}};
  StopAndContinue(command);
  command.run = [options](CommandContext& context) { return Run(*options, context); };
  return command;
}

}  // namespace dsv3::cli

#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/dequantize.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::DequantizeOptions>;

}  // namespace

Command DequantizeCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "dequantize";
  command.summary = "turn a quantised checkpoint of any form into BF16";
  command.description = {
      "Multiplies the codes of each quantised weight of the checkpoint IN by their scales, rounds "
      "to BF16 and writes a complete checkpoint to OUT. The forms are FP8 with any scales, MXFP8, "
      "INT8 for rows or blocks, packed INT4 (Kimi K2), W4AFP8, NVFP4 and MXFP4; they are "
      "recognised by the tensors beside a weight and by the config. Scales, zero points and what "
      "else is beside the codes go, and so do the members of config.json and the files that "
      "describe them. All other tensors are copied untouched, and so are the tokenizer and other "
      "side files. The source is not changed.",
      "Files appear in OUT under their names only when they are complete, the index after all "
      "shards. After an interruption of any kind the same command continues and gives the same "
      "bytes; on a finished OUT it checks sizes and headers and says that there is nothing to do."};
  command.arguments = {
      {"IN",
       "The quantised checkpoint: a directory, a single safetensors file, or a model directory of "
       "the Hugging Face hub cache, or rank shards of dsv3-reshard.",
       &options->conversion.input},
      OutputArgument(&options->conversion.output)};
  command.options = RunOptionTable(&options->conversion.run);
  command.options.push_back(
      Flag("allow-bad-scales", &options->recipe.allow_bad_scales,
           "Go on when a scale is NaN, infinite, negative or zero, and count these by tensor. "
           "Without it they are an error."));
  AddOptions(PartOptionTable(&options->conversion.run), command);
  AddOptions(DeletionOptionTable(&options->conversion.run, &options->conversion.yes), command);
  command.examples = {
      {"dequantize Kimi-K2-Thinking Kimi-K2-Thinking-BF16", "Convert a checkpoint of INT4 experts"},
      {"dequantize --dry-run DeepSeek-R1-NVFP4 DeepSeek-R1-BF16", "See first whether it fits"}};
  StopAndContinue(command);
  command.run = [options](CommandContext& context) {
    return RunConversion(options->conversion, convert::DequantizeConversion(options->recipe),
                         context);
  };
  return command;
}

}  // namespace dsv3::cli

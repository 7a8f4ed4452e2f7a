#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/fp8_to_bf16.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::DequantizeOptions>;

}  // namespace

Command Fp8ToBf16Command() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "fp8-to-bf16";
  command.summary = "cast a block-scaled FP8 checkpoint to BF16";
  command.description = {
      "Multiplies each FP8 weight of the checkpoint IN by its block scales, rounds to BF16 and "
      "writes a complete checkpoint to OUT. All other tensors are copied untouched, and so are "
      "the tokenizer and other side files. The source is not changed.",
      "Files appear in OUT under their names only when they are complete, the index after all "
      "shards. After an interruption of any kind the same command continues and gives the same "
      "bytes; on a finished OUT it checks sizes and headers and says that there is nothing to do."};
  command.arguments = {
      {"IN",
       "The FP8 checkpoint: a directory, a single safetensors file, or a model directory of the "
       "Hugging Face hub cache, or rank shards of dsv3-reshard.",
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
      {"fp8-to-bf16 DeepSeek-V3 DeepSeek-V3-BF16", "Convert a checkpoint"},
      {"fp8-to-bf16 --dry-run DeepSeek-V3 DeepSeek-V3-BF16", "See first whether it fits"},
      {"fp8-to-bf16 --json --quiet DeepSeek-V3 DeepSeek-V3-BF16 > report.json",
       "Keep a report that programs can read"}};
  StopAndContinue(command);
  command.run = [options](CommandContext& context) {
    return RunConversion(options->conversion, convert::Fp8ToBf16Conversion(options->recipe),
                         context);
  };
  return command;
}

}  // namespace dsv3::cli

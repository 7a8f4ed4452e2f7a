#include <memory>
#include <string>
#include <string_view>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/fp8_to_bf16.h"

namespace dsv3::cli {

namespace {

using convert::DequantizeOptions;

// What the two commands have in common; fp8-to-bf16 is dequantize for FP8 alone. IN is `what`.
Command DequantizingCommand(std::string_view what,
                            convert::ConversionKind (*kind)(const DequantizeOptions&)) {
  const auto options = std::make_shared<CommandOptions<DequantizeOptions>>();
  Command command;
  command.arguments = {InputArgument(&options->conversion.input, what),
                       OutputArgument(&options->conversion.output)};
  command.options.push_back(
      Flag("allow-bad-scales", &options->recipe.allow_bad_scales,
           "Go on when a scale is NaN, infinite, negative or zero, and count these by tensor. "
           "Without it they are an error."));
  AddConversionOptions(&options->conversion, command);
  SetConversion(options, kind, command);
  return command;
}

}  // namespace

Command DequantizeCommand() {
  Command command = DequantizingCommand("quantised checkpoint", convert::DequantizeConversion);
  command.name = "dequantize";
  command.summary = "turn a quantised checkpoint of any form into BF16";
  command.description = {
      "Multiplies the codes of each quantised weight of the checkpoint IN by their scales, rounds "
      "to BF16 and writes a complete checkpoint to OUT. The forms are FP8 with any scales, MXFP8, "
      "INT8 for rows or blocks, packed INT4 (Kimi K2), AWQ, W4AFP8, NVFP4 and MXFP4; they are "
      "recognised by the tensors beside a weight and by the config. Scales, zero points and what "
      "else is beside the codes go, and so do the members of config.json and the files that "
      "describe them. All other tensors are copied untouched, and so are the tokenizer and other "
      "side files. The source is not changed.",
      std::string(kCompletesInAnyCase)};
  command.examples = {
      {"dequantize Kimi-K2-Thinking Kimi-K2-Thinking-BF16", "Convert a checkpoint of INT4 experts"},
      {"dequantize --dry-run DeepSeek-R1-NVFP4 DeepSeek-R1-BF16", "See first whether it fits"}};
  return command;
}

Command Fp8ToBf16Command() {
  Command command = DequantizingCommand("FP8 checkpoint", convert::Fp8ToBf16Conversion);
  command.name = "fp8-to-bf16";
  command.summary = "cast a block-scaled FP8 checkpoint to BF16";
  command.description = {
      "Multiplies each FP8 weight of the checkpoint IN by its block scales, rounds to BF16 and "
      "writes a complete checkpoint to OUT. All other tensors are copied untouched, and so are "
      "the tokenizer and other side files. The source is not changed.",
      std::string(kCompletesInAnyCase)};
  command.examples = {
      {"fp8-to-bf16 DeepSeek-V3 DeepSeek-V3-BF16", "Convert a checkpoint"},
      {"fp8-to-bf16 --dry-run DeepSeek-V3 DeepSeek-V3-BF16", "See first whether it fits"},
      {"fp8-to-bf16 --json --quiet DeepSeek-V3 DeepSeek-V3-BF16 > report.json",
       "Keep a report that programs can read"}};
  return command;
}

}  // namespace dsv3::cli

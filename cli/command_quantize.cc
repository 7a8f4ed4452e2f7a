#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/quantize.h"

namespace dsv3::cli {

namespace {

using convert::QuantizeModules;
using convert::QuantizeTo;
using convert::QuantizeTool;

using Options = CommandOptions<convert::QuantizeOptions>;

// Forms whose scales come from activations, under the names that people look for.
bool IsCalibrated(std::string_view form) {
  constexpr std::array<std::string_view, 7> kForms = {"w4afp8", "w4a8",        "awq",       "gptq",
                                                      "w8a8",   "int8-static", "fp8-static"};
  return std::find(kForms.begin(), kForms.end(), form) != kForms.end();
}

Option ToOption(convert::QuantizeOptions* recipe) {
  Option option = OneOf<QuantizeTo>(
      "to", "FORM",
      {{"int8", QuantizeTo::kInt8, "INT8, a scale for each row"},
       {"int8-block", QuantizeTo::kInt8Block, "INT8 in blocks of 128x128"},
       {"int4", QuantizeTo::kInt4, "packed INT4 in groups of 32, as Kimi K2's experts"},
       {"nvfp4", QuantizeTo::kNvFp4, "NVFP4, E2M1 in groups of 16"},
       {"mxfp4", QuantizeTo::kMxFp4, "MXFP4, E2M1 in groups of 32"},
       {"mxfp8", QuantizeTo::kMxFp8, "MXFP8, E4M3 in groups of 32"},
       {"fp8", QuantizeTo::kFp8, "FP8 in blocks, as bf16-to-fp8 makes it"}},
      &recipe->to,
      "The form to write: int8 (a scale for each row), int8-block (for blocks of 128x128), int4 "
      "(packed, for groups of 32 columns), nvfp4 (for groups of 16 columns and for the tensor), "
      "mxfp4 or mxfp8 (powers of two for groups of 32 columns) or fp8 (as bf16-to-fp8 makes it). "
      "Needed, unless --scales-from is given.");
  option.set = [set = std::move(option.set)](const std::string& text) {
    if (IsCalibrated(text)) {
      throw BadValue(fmt::format(
          "{} needs scales of activations, which only running the model over samples of text "
          "gives; give a form that is made of the weights alone: int8, int8-block, int4, nvfp4, "
          "mxfp4, mxfp8 or fp8",
          text));
    }
    set(text);
  };
  return option;
}

std::vector<Option> RecipeOptions(convert::QuantizeOptions* recipe) {
  std::vector<Option> table;
  table.push_back(ToOption(recipe));
  table.push_back(OneOf<QuantizeTool>(
      "recipe", "NAME",
      {{"llm-compressor", QuantizeTool::kLlmCompressor, "llm-compressor's formulas and config"},
       {"modelopt", QuantizeTool::kModelOpt, "NVIDIA ModelOpt's"},
       {"deepseek", QuantizeTool::kDeepSeek, "those of DeepSeek's releases"}},
      &recipe->tool,
      "The tool whose formulas make scales and codes, to the bit, and whose names and config are "
      "written: llm-compressor (default of int8, int4, mxfp4 and mxfp8), modelopt (default of "
      "nvfp4) or deepseek (default of int8-block and fp8). A form that a tool does not write is "
      "refused."));
  table.push_back(OneOf<QuantizeModules>(
      "modules", "WHICH",
      {{"linear", QuantizeModules::kLinear, "all linear layers but head and routers"},
       {"experts", QuantizeModules::kExperts, "the routed experts alone"}},
      &recipe->modules,
      "The weights to quantise: linear (all linear layers of attention and MLP, all experts and "
      "those of the MTP layers; default of int8, int8-block, mxfp8 and fp8) or experts (the routed "
      "experts alone; default of int4, nvfp4 and mxfp4). All others stay; those that IN has "
      "quantised are BF16 in "
      "OUT."));
  return table;
}

}  // namespace

Command QuantizeCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "quantize";
  command.summary = "quantise a checkpoint to INT8, INT4, FP4 or FP8";
  command.description = {
      "Quantises weights of the checkpoint IN to another form and writes a complete checkpoint to "
      "OUT, with the bytes that the tool of --recipe gives on a CPU: codes, scales, names of "
      "tensors and config. Embedding, head, norms, routers and eh_proj stay as they are. IN is "
      "BF16, F16 or F32, or quantised in any form that dequantize reads; then each weight is "
      "dequantised to BF16 on the way, and OUT has the bytes that two commands would give. The "
      "source is not changed.",
      "The report says for each tensor how far the quantised weights are from the source's. A NaN "
      "or infinite weight is an error that names tensor, row and column.",
      std::string(kCompletesInAnyCase)};
  command.arguments = {InputArgument(&options->conversion.input, "checkpoint"),
                       OutputArgument(&options->conversion.output)};
  command.options = RecipeOptions(&options->recipe);
  command.options.push_back(PathOption(
      "scales-from", "DIR", PathUse::kCheckpoint, &options->recipe.scales_from,
      "Instead of --to: the quantised checkpoint, of any form that dequantize reads, that IN was "
      "made from. OUT has its codes, scales, files and config, to the byte; a weight of IN that "
      "is not what these codes mean is an error that names row and column."));
  AddConversionOptions(&options->conversion, command);
  command.examples = {
      {"quantize --to int8 DeepSeek-V3 DeepSeek-V3-INT8", "From FP8 to INT8, for A100 or Ascend"},
      {"quantize --to int4 DeepSeek-V3-BF16 DeepSeek-V3-INT4", "Experts as in Kimi K2"},
      {"quantize --scales-from Kimi-K2-Thinking Kimi-K2-BF16 OUT",
       "The way back from dequantize, to the byte"}};
  SetConversion(options, convert::QuantizeConversion, command);
  return command;
}

}  // namespace dsv3::cli

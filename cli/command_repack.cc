#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/repack.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::RepackOptions>;

Option ToOption(convert::RepackOptions* recipe) {
  using convert::RepackTarget;
  return OneOf<RepackTarget>(
      "to", "FORM",
      {{"fp8", RepackTarget::kFp8, "FP8 with a power of two for each block"},
       {"nvfp4", RepackTarget::kNvFp4ModelOpt, "the same as nvfp4-modelopt"},
       {"nvfp4-modelopt", RepackTarget::kNvFp4ModelOpt, "NVFP4 as ModelOpt writes it"},
       {"nvfp4-compressed-tensors", RepackTarget::kNvFp4CompressedTensors,
        "NVFP4 as compressed-tensors writes it"}},
      &recipe->to,
      "The form to write: fp8 (blocks of 128 × 128 with powers of two as scales, from MXFP4), "
      "nvfp4 or nvfp4-modelopt (as ModelOpt writes NVFP4), or nvfp4-compressed-tensors; NVFP4 is "
      "made of MXFP4 or of the other tool's NVFP4. Needed.");
}

}  // namespace

Command RepackCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "repack";
  command.summary = "write FP4 weights in another form without losing a bit";
  command.description = {
      "Writes the checkpoint IN to OUT with its weights of FP4 codes in another form: the MXFP4 "
      "experts of DeepSeek-V4 as FP8 or NVFP4, or NVFP4 of one tool as that of the other. Every "
      "BF16 value stays the same, to the bit. Where that is not possible, nothing is written, and "
      "the message names the tensor and the block. config.json and hf_quant_config.json then "
      "describe the new form; all other tensors and side files are copied. The source is not "
      "changed.",
      "NVFP4 of ModelOpt needs a scale of activations beside each weight. Where IN has none, it is "
      "1.0, as in NVIDIA's exports without calibration.",
      std::string(kCompletesInAnyCase)};
  command.arguments = {InputArgument(&options->conversion.input, "checkpoint with FP4 weights"),
                       OutputArgument(&options->conversion.output)};
  command.options.push_back(ToOption(&options->recipe));
  AddConversionOptions(&options->conversion, command);
  command.examples = {
      {"repack --to fp8 DeepSeek-V4-Flash DeepSeek-V4-Flash-FP8", "For GPUs without FP4"},
      {"repack --to nvfp4-compressed-tensors DeepSeek-R1-NVFP4 DeepSeek-R1-NVFP4-ct",
       "For readers of compressed-tensors"}};
  SetConversion(options, convert::RepackConversion, command);
  return command;
}

}  // namespace dsv3::cli

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/bf16_to_fp8.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::Bf16ToFp8Options>;

constexpr std::uint64_t kMaxBlockSide = std::uint64_t{1} << 31;

// "128x128", "row", "tensor".
convert::QuantizeBlock ParseBlock(const std::string& text) {
  constexpr const char* kAccepted =
      "give ROWSxCOLUMNS such as 128x128, 32x32 or 1x128, or row or tensor";
  if (text == "row") return {quant::BlockForm::kRow, {}};
  if (text == "tensor") return {quant::BlockForm::kTensor, {}};
  const std::size_t x = text.find('x');
  if (x == std::string::npos) throw BadValue(kAccepted);
  convert::QuantizeBlock block;
  block.shape.rows = ParseNumber(text.substr(0, x), kMaxBlockSide, kAccepted);
  block.shape.cols = ParseNumber(text.substr(x + 1), kMaxBlockSide, kAccepted);
  if (block.shape.rows == 0 || block.shape.cols == 0) throw BadValue(kAccepted);
  return block;
}

std::vector<Option> RecipeOptions(const std::shared_ptr<Options>& options) {
  using quant::Nonfinite;
  using quant::QuantizeRecipe;
  using quant::ScaleFmt;
  convert::Bf16ToFp8Options* recipe = &options->recipe;
  std::vector<Option> table;
  table.push_back(OneOf<ScaleFmt>(
      "scale-fmt", "FORMAT",
      {{"f32", ScaleFmt::kF32, "F32, largest magnitude / 448"},
       {"ue8m0", ScaleFmt::kUe8m0, "powers of two in F32, as in V3.1"},
       {"e8m0", ScaleFmt::kE8M0, "powers of two in F8_E8M0, as in V4"}},
      &recipe->scale_fmt,
      "Format of the scales: f32 (default), ue8m0 (powers of two stored as F32, as in DeepSeek "
      "V3.1) or e8m0 (powers of two stored as F8_E8M0, as in V4). Powers of two are rounded up, "
      "and the weights are quantised with what is stored."));
  Option block;
  block.name = "block";
  block.value_name = "RxC";
  block.help =
      "The block of a weight that shares a scale: 128x128 (default), 32x32, 1x128 or any other "
      "ROWSxCOLUMNS; row or tensor for one scale a row or a tensor, written as "
      "compressed-tensors.";
  block.set = [recipe](const std::string& text) { recipe->block = ParseBlock(text); };
  table.push_back(std::move(block));
  table.push_back(OneOf<QuantizeRecipe>(
      "recipe", "NAME",
      {{"deepseek", QuantizeRecipe::kDeepSeek, "DeepSeek's formula"},
       {"deepgemm", QuantizeRecipe::kDeepGemm, "DeepGEMM's, and vLLM's"},
       {"transformers", QuantizeRecipe::kTransformers, "transformers' version 5"},
       {"llm-compressor", QuantizeRecipe::kLlmCompressor, "llm-compressor's, with its config"}},
      &recipe->recipe,
      "The tool whose formula makes scales and codes, to the bit: deepseek (default), deepgemm, "
      "transformers (version 5) or llm-compressor, which also writes the names and the config of "
      "compressed-tensors. Formats and blocks that a tool does not have are refused; deepseek and "
      "deepgemm take all."));
  table.push_back(OneOf<convert::ScaleNaming>(
      "scale-name", "NAME",
      {{"weight_scale_inv", convert::ScaleNaming::kScaleInv, "X.weight_scale_inv"},
       {"scale", convert::ScaleNaming::kScale, "X.scale, as in V4"}},
      &recipe->scale_name,
      "Name of the scale of X.weight: weight_scale_inv (default) or scale, as in V4."));
  table.push_back(Texts("include", "GLOB", &recipe->include,
                        "Also quantise the tensors whose names match GLOB, whatever the model's "
                        "rules or modules_to_not_convert say. GLOB is a shell pattern for whole "
                        "tensor names; the option may be given several times."));
  table.push_back(Texts("exclude", "GLOB", &recipe->exclude,
                        "Do not quantise the tensors whose names match GLOB. It wins over "
                        "--include and may be given several times."));
  table.push_back(OneOf<Nonfinite>(
      "nonfinite", "ACTION",
      {{"error", Nonfinite::kReport, "stop and name the first one"},
       {"saturate", Nonfinite::kSaturate, "go on and count them"}},
      &recipe->nonfinite,
      "How NaN and infinite weights are treated: error (default) stops and names the first one; "
      "saturate makes NaN 0 and infinity the largest code, each with its sign, and counts them."));
  table.push_back(PathOption(
      "scales-from", "DIR", PathUse::kCheckpoint, &options->recipe.scales_from,
      "The FP8 checkpoint that IN was made from: every block whose BF16 bits are unchanged gets "
      "its codes and scale back, so that parts that were not edited are the same to the byte, "
      "files and index included; other blocks are quantised again and counted. Names, blocks, "
      "scale format, shards and the set of quantised tensors are those of this checkpoint. It may "
      "be whatever IN may be: a directory, a file, rank shards, a model of the hub cache."));
  return table;
}

}  // namespace

Command Bf16ToFp8Command() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "bf16-to-fp8";
  command.summary = "quantise a BF16 checkpoint to FP8 with block scales";
  command.description = {
      "Quantises the weights of the checkpoint IN (BF16, F16 or F32) that DeepSeek's FP8 releases "
      "quantise: the linear layers of attention and MLP, all experts, and those of the MTP layers. "
      "Embedding, head, norms, routers, eh_proj and the indexer's weights_proj stay as they are; "
      "other modules that stay are listed in modules_to_not_convert, and such a list in the config "
      "or in the manifest of fp8-to-bf16, there also as ignored_layers, is honoured. Each scale is "
      "in the shard of its weight, "
      "and each tensor in the shard that it was in. The source is not changed.",
      "The report says for each tensor how far the quantised weights are from the source's.",
      std::string(kCompletesInAnyCase)};
  command.arguments = {InputArgument(&options->conversion.input, "BF16, F16 or F32 checkpoint"),
                       OutputArgument(&options->conversion.output)};
  command.options = RecipeOptions(options);
  AddConversionOptions(&options->conversion, command);
  command.examples = {
      {"bf16-to-fp8 DeepSeek-V3-BF16 DeepSeek-V3-FP8", "Quantise as DeepSeek does"},
      {"bf16-to-fp8 DeepSeek-V3-tuned DeepSeek-V3-tuned-FP8 --scales-from DeepSeek-V3",
       "Keep parts that were not edited, to the byte"},
      {"bf16-to-fp8 --scale-fmt ue8m0 DeepSeek-V3-BF16 DeepSeek-V3-UE8M0",
       "Scales that are powers of two"},
      {"bf16-to-fp8 --exclude 'model.layers.0.*' DeepSeek-V3-BF16 OUT",
       "Leave the first layer as it is"}};
  SetConversion(options, convert::Bf16ToFp8Conversion, command);
  return command;
}

}  // namespace dsv3::cli

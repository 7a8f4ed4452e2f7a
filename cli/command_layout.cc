#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "convert/layouts/stacks.h"
#include "convert/recipes/layout.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::LayoutOptions>;

Option ToOption(convert::LayoutOptions* recipe) {
  std::vector<ChoiceOf<std::string>> choices;
  std::vector<std::string> names;
  names.reserve(convert::WritableLayouts().size());
  for (const convert::WritableLayout& layout : convert::WritableLayouts()) {
    names.emplace_back(layout.name);
    choices.push_back({names.back(), names.back(), ""});
  }
  return OneOf<std::string>("to", "LAYOUT", std::move(choices), &recipe->to,
                            "The layout to write: " + JoinWords(names) + ". Needed.");
}

}  // namespace

Command LayoutCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "layout";
  command.summary = "write a model in the names and forms of another stack";
  command.description = {
      "Writes the model IN to OUT in another layout: other names, experts together or apart, "
      "matrices transposed, rows in another order. hf is the layout of Hugging Face checkpoints; "
      "deepseek that of DeepSeek's inference demo for one rank; transformers-fused has the experts "
      "of a layer in two tensors; the others are those of MindFormers' training and inference "
      "networks. Values change only where a layout has no scales (FP8 becomes BF16) or stores some "
      "tensors in F32.",
      "Files appear in OUT under their names only when they are complete. After an interruption of "
      "any kind the same command continues and gives the same bytes."};
  command.arguments = {
      {"IN",
       "The model: a Hugging Face checkpoint, rank shards of dsv3-reshard, or a training "
       "checkpoint, see train-to-infer; also a directory in a layout of MindFormers, or one with "
       "the "
       "files of DeepSeek's inference demo.",
       &options->conversion.input},
      OutputArgument(&options->conversion.output)};
  command.options.push_back(ToOption(&options->recipe));
  AddOptions(TrainingOptionTable(&options->recipe.from, &options->recipe.config,
                                 &options->recipe.shard_bytes),
             command);
  AddConversionOptions(&options->conversion, command);
  command.examples = {
      {"layout --to mindformers-train DeepSeek-V3-bf16 DeepSeek-V3-ms",
       "For MindFormers' training"},
      {"layout --to hf DeepSeek-V3-ms DeepSeek-V3-hf --config DeepSeek-V3/config.json",
       "Back to Hugging Face's names"}};
  SetConversion(options, convert::LayoutConversion, command);
  return command;
}

}  // namespace dsv3::cli

#include <memory>
#include <string>
#include <utility>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/conversion.h"

namespace dsv3::cli {

namespace {

struct Options {
  ConversionOptions conversion;
  convert::TrainToInferOptions recipe;
};

std::string Run(const Options& options, CommandContext& context) {
  convert::ConversionRequest request;
  request.train_to_infer = options.recipe;
  return RunConversion(options.conversion, std::move(request), convert::ConvertTrainToInfer,
                       context);
}

Option MtpOption(bool* drop) {
  Option option;
  option.name = "mtp";
  option.value_name = "WHAT";
  option.choices = {{"drop", "leave the MTP layers out"}};
  option.help =
      "The MTP layers (multi-token prediction, behind num_hidden_layers): drop leaves them out, "
      "and "
      "sets num_nextn_predict_layers to 0. Needed.";
  option.set = [drop](const std::string& text) {
    if (text != "drop") throw BadValue("give drop");
    *drop = true;
  };
  return option;
}

}  // namespace

Command TrainToInferCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "train-to-infer";
  command.summary = "leave out what inference does not need: the MTP layers";
  command.description = {
      "Writes the Hugging Face checkpoint IN to OUT without its MTP layers. Tensors, index and "
      "config.json change together; a shard that holds no tensor of these layers keeps every byte, "
      "and weights stay in the form that they have.",
      "Files appear in OUT under their names only when they are complete, the index after all "
      "shards. After an interruption of any kind the same command continues and gives the same "
      "bytes."};
  command.arguments = {
      {"IN",
       "The checkpoint: a directory, a single safetensors file, or a model directory of the "
       "Hugging Face hub cache, or rank shards of dsv3-reshard.",
       &options->conversion.input},
      {"OUT",
       "The directory to write. It may be missing, empty, or hold what an earlier run of the "
       "same command left.",
       &options->conversion.output}};
  command.options.push_back(MtpOption(&options->recipe.drop_mtp));
  for (Option& option : RunOptionTable(&options->conversion.run)) {
    command.options.push_back(std::move(option));
  }
  for (Option& option : PartOptionTable(&options->conversion.run)) {
    command.options.push_back(std::move(option));
  }
  for (Option& option : DeletionOptionTable(&options->conversion.run, &options->conversion.yes)) {
    command.options.push_back(std::move(option));
  }
  command.examples = {
      {"train-to-infer --mtp drop DeepSeek-V3 DeepSeek-V3-main", "Leave the MTP layer out"}};
  command.after_stop = "run the same command again to continue";
  command.stops_by_itself = true;
  command.shares_work = true;
  command.run = [options](CommandContext& context) { return Run(*options, context); };
  return command;
}

}  // namespace dsv3::cli

#include <cstdint>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/inspect_render.h"
#include "cli/tool_main.h"
#include "convert/inspect/inspection.h"
#include "convert/inspect/tensor_statistics.h"

namespace dsv3::cli {

namespace {

struct Options {
  std::string input;
  std::string tensor;
};

std::string Run(const Options& options, CommandContext& context) {
  // Never freed: freeing the names of 92 k tensors one by one, at the end of the process, would
  // take a tenth of the time that reading them takes.
  static const convert::Inspection* kept = nullptr;
  kept = new convert::Inspection(convert::Inspect(options.input));
  const convert::Inspection& inspection = *kept;
  if (options.tensor.empty()) {
    return context.output.json ? InspectionJson(inspection, context.tool.name)
                               : InspectionText(inspection);
  }
  const std::uint32_t position = convert::RequireTensor(inspection, options.tensor);
  const convert::TensorStatistics statistics = convert::MeasureTensor(
      inspection.catalog, position, inspection.config ? &*inspection.config : nullptr);
  return context.output.json ? TensorJson(inspection, position, statistics, context.tool.name)
                             : TensorText(inspection, position, statistics);
}

}  // namespace

Command InspectCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.summary = "show what a checkpoint holds";
  command.description = {
      "Shows the tensors of a checkpoint as a tree in which equal layers and experts are one "
      "line, with dtypes, parameters (in total and activated for each token), bytes, and the MTP "
      "layers apart. Only headers, index and config are read, no weights.",
      "Contradictions between files, index and config are shown and are no failure: only headers "
      "or an index that cannot be read are.",
      "Of rank shards it shows the deployment and the model that they hold."};
  command.arguments = {
      {"IN",
       "The checkpoint: a directory, a single safetensors file, or a model directory of the "
       "Hugging Face hub cache.",
       &options->input}};
  command.options.push_back(
      Text("tensor", "NAME", &options->tensor,
           "Show the header, the place and the statistics of this one tensor. Its values are "
           "read."));
  command.examples = {
      {"DeepSeek-V3", "Show a checkpoint"},
      {"DeepSeek-V3 --tensor model.norm.weight", "Show one tensor and its values' statistics"}};
  command.after_stop = "nothing was changed";
  command.returns_data = true;
  command.run = [options](CommandContext& context) { return Run(*options, context); };
  return command;
}

}  // namespace dsv3::cli

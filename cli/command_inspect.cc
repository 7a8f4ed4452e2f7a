#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "cli/base_option.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/inspect_list.h"
#include "cli/inspect_render.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "convert/inspect/inspection.h"
#include "convert/inspect/tensor_statistics.h"

namespace dsv3::cli {

namespace {

struct Options {
  std::string input;
  std::filesystem::path config;
  std::optional<convert::Stack> from;
  std::filesystem::path base;
  std::string tensor;
  bool list = false;
};

std::vector<MeasuredTensor> Measure(const convert::Inspection& inspection,
                                    const std::vector<std::uint32_t>& positions) {
  std::vector<MeasuredTensor> measured;
  measured.reserve(positions.size());
  for (const std::uint32_t position : positions) {
    measured.push_back(
        {position, convert::MeasureTensor(inspection.model, position,
                                          inspection.config ? &*inspection.config : nullptr)});
  }
  return measured;
}

std::string Run(const Options& options, CommandContext& context) {
  // Never freed: freeing the names of 92 k tensors one by one, at the end of the process, would
  // take a tenth of the time that reading them takes.
  static const convert::Inspection* kept = nullptr;
  kept = new convert::Inspection(convert::Inspect(
      options.input, {.config = options.config, .from = options.from, .base = options.base}));
  const convert::Inspection& inspection = *kept;
  const bool json = context.output.json;
  const std::string& tool = context.tool.name;
  std::vector<std::uint32_t> positions;
  if (!options.tensor.empty()) {
    positions = convert::RequireTensors(inspection, options.tensor);
  } else if (options.list) {
    positions.resize(inspection.model.catalog.tensors().size());
    std::iota(positions.begin(), positions.end(), 0U);
  } else {
    return json ? InspectionJson(inspection, tool) : InspectionText(inspection, StdoutColumns());
  }
  if (options.list) {
    return json ? ListJson(inspection, positions, tool)
                : ListText(inspection, positions, StdoutColumns());
  }
  const std::vector<MeasuredTensor> measured = Measure(inspection, positions);
  const bool one = measured.size() == 1 &&
                   inspection.model.catalog.tensors()[positions[0]].name == options.tensor;
  if (json) {
    return one ? TensorJson(inspection, measured[0], tool)
               : TensorsJson(inspection, measured, tool);
  }
  std::string text;
  for (const MeasuredTensor& each : measured) {
    text += (text.empty() ? "" : "\n") + TensorText(inspection, each);
  }
  return text;
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
      "Contradictions between files, index and config are shown, but do not make the command fail; "
      "only headers or an index that cannot be read do.",
      "Of rank shards it shows the deployment and the model that they hold. Of a GGUF file, or of "
      "all splits of which it is one, it shows the keys, of long arrays the first elements and "
      "their number, and the tensors with their types, under the file's own names."};
  command.arguments = {
      {"IN",
       "The checkpoint: a directory, a single safetensors file, a model directory of the Hugging "
       "Face hub cache, rank shards of dsv3-reshard, a training checkpoint, see dsv3-convert "
       "train-to-infer, or a GGUF file.",
       &options->input}};
  command.options = {ConfigOption(&options->config), FromOption(&options->from),
                     BaseOption(&options->base, "IN")};
  command.options.push_back(
      Text("tensor", "NAME", &options->tensor,
           "Show the header, the place and the statistics of this one tensor. Its values are "
           "read. A shell pattern, such as '*.o_proj.weight', shows all tensors that it matches."));
  command.options.push_back(
      Flag("list", &options->list,
           "List all tensors, or those that --tensor names, one on each line: name, dtype, shape, "
           "bytes and file. No values are read.",
           'l'));
  command.examples = {
      {"DeepSeek-V3", "Show a checkpoint"},
      {"DeepSeek-V3 --tensor model.norm.weight", "Show one tensor and its values' statistics"},
      {"DeepSeek-V3 --list --tensor 'model.layers.3.*'", "List the tensors of a layer"},
      {"DeepSeek-V3-Q8_0.gguf", "Show the keys and tensors of a GGUF file"}};
  command.returns_data = true;
  command.run = [options](CommandContext& context) { return Run(*options, context); };
  return command;
}

}  // namespace dsv3::cli

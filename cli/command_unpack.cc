#include <memory>
#include <string>

#include "cli/base_option.h"
#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/unpack.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::UnpackOptions>;

}  // namespace

Command UnpackCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "unpack";
  command.summary = "give back the files of a packed checkpoint";
  command.description = {
      "Writes the checkpoint that dsv3-convert pack packed to OUT: every file is what it was, byte "
      "for byte, with its headers, index and side files. Each tensor's digest and each file's "
      "SHA-256 are compared with packed.json before the file gets its name, so a damaged packed "
      "checkpoint gives no wrong file. The packed checkpoint is not changed.",
      "With --tensors it makes a checkpoint of some tensors, which lie in shards of the same names "
      "under an index of their own, and reads no others.",
      std::string(kCompletesInAnyCase)};
  command.arguments = {
      {"PACKED", "The directory that dsv3-convert pack wrote.", &options->conversion.input},
      OutputArgument(&options->conversion.output)};
  command.options.push_back(
      Texts("tensors", "GLOB", &options->recipe.tensors,
            "Only the tensors whose whole names match this pattern (*, ?, [a-z]); may be given "
            "several times."));
  command.options.push_back(BaseOption(&options->conversion.run.base, "PACKED"));
  AddOptions(PackingOptionTable(&options->conversion.run), command);
  AddOptions(PartOptionTable(&options->conversion.run), command);
  command.examples = {
      {"unpack DeepSeek-V3.1-Base-packed DeepSeek-V3.1-Base", "Unpack a checkpoint"},
      {"unpack --tensors 'model.layers.0.*' DeepSeek-V3.1-Base-packed layer-0", "One layer alone"}};
  SetConversion(options, convert::UnpackConversion, command);
  return command;
}

}  // namespace dsv3::cli

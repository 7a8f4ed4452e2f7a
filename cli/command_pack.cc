#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/pack.h"

namespace dsv3::cli {

namespace {

constexpr std::uint64_t kMostVersion = 999'999;

using Options = CommandOptions<convert::PackOptions>;

}  // namespace

Command PackCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "pack";
  command.summary = "pack a checkpoint without losing a byte";
  command.description = {
      "Packs the checkpoint IN to OUT: each file X.safetensors becomes X.safetensors.packed, in "
      "which the tensors take about as few bytes as entropy coding can make of them (BF16 two "
      "thirds, FP8 five sixths). Index and side files are copied as they are, and packed.json says "
      "what there is, with digests of all of it. dsv3-convert unpack gives every file back, byte "
      "for byte. The source is not changed.",
      "IN is taken as bytes: any valid safetensors files, of any model, with or without a config. "
      "Every packed file is a safetensors file itself, whose tensors are streams that the zstd "
      "program can test and decode. Before a file gets its name, what was packed is unpacked and "
      "compared, and the file is read back.",
      "Files appear in OUT under their names only when they are complete, packed.json last. After "
      "an interruption of any kind the same command continues and gives the same bytes."};
  command.arguments = {{"IN",
                        "The checkpoint: a directory, a single safetensors file, or a model "
                        "directory of the Hugging "
                        "Face hub cache.",
                        &options->conversion.input},
                       OutputArgument(&options->conversion.output)};
  AddOptions(PackingOptionTable(&options->conversion.run), command);
  command.options.front().help =
      "Check everything that can be checked without reading all weights, print the files to be "
      "written, about how many bytes they take by samples of the weights, the disk space and "
      "memory needed and whether they are there, and write nothing.";
  command.options.push_back(PathOption(
      "base", "DIR", PathUse::kCheckpoint, &options->recipe.base,
      "The checkpoint that IN came from, such as the one before fine-tuning or an RL step: of each "
      "tensor that it has, too, in the same dtype and shape, the differences alone are packed. FP8 "
      "weights of it serve for BF16 ones. unpack needs it again."));
  command.options.push_back(OneOf<convert::PackForm>(
      "form", "FORM",
      {{"packed", convert::PackForm::kPacked, "packed files and packed.json"},
       {"pull-weights", convert::PackForm::kPullWeights, "weight deltas that engines pull"}},
      &options->recipe.form,
      "What is written: packed (default), or pull-weights, the directory of one version of weights "
      "that SGLang's /pull_weights applies to the version before it, which --base names: the "
      "tensors that changed, as XOR. Tensors that were added, removed or reshaped are refused."));
  command.options.push_back(Count(
      "weight-version", "N", kMostVersion,
      [options](std::uint64_t version) { options->recipe.weight_version = version; },
      "Of pull-weights: the version that IN is, 1 for the first one behind the model that the "
      "engines began with. Engines look for it under weight_v and six digits."));
  command.options.push_back(
      Flag("idempotent", &options->recipe.idempotent,
           "Of pull-weights: write new bytes and their positions in place of XOR, so that deltas "
           "may be applied twice."));
  command.options.push_back(OneOf<bool>(
      "side-files", "MODE",
      {{"model", false, "all but what git and downloads keep"}, {"all", true, "all"}},
      &options->conversion.run.all_side_files,
      "Which files beside the weights are copied: model (default; all but those below .git and "
      ".cache, which the report names) or all."));
  AddOptions(PartOptionTable(&options->conversion.run), command);
  AddOptions(DeletionOptionTable(&options->conversion.run, &options->conversion.yes), command);
  command.examples = {{"pack DeepSeek-V3.1-Base DeepSeek-V3.1-Base-packed", "Pack a checkpoint"},
                      {"pack --dry-run DeepSeek-V3.1-Base DeepSeek-V3.1-Base-packed",
                       "See first about how small it gets"}};
  SetConversion(options, convert::PackConversion, command);
  return command;
}

}  // namespace dsv3::cli

#include "cli/training_options.h"

#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace dsv3::cli {
namespace {

std::vector<ChoiceOf<convert::Stack>> StackChoices() {
  std::vector<ChoiceOf<convert::Stack>> choices;
  for (const std::string_view name : convert::StackNames()) {
    choices.push_back({std::string(name), *convert::ParseStackName(name), ""});
  }
  return choices;
}

}  // namespace

Option ConfigOption(std::filesystem::path* config) {
  return PathOption(
      "config", "FILE", PathUse::kInputFile, config,
      "The model's config.json as it is on Hugging Face, for a checkpoint that has none beside "
      "it. Of a training checkpoint it is taken in place of the one beside it.");
}

Option FromOption(std::optional<convert::Stack>* from) {
  return OneOf<convert::Stack>(
      "from", "STACK", StackChoices(), from,
      fmt::format("The training stack whose names the tensors of the checkpoint have: {}. Without "
                  "it the names say which one it is, and the result is the same.",
                  fmt::join(convert::StackNames(), ", ")));
}

std::vector<Option> TrainingOptionTable(std::optional<convert::Stack>* from,
                                        std::filesystem::path* config, std::uint64_t* shard_bytes) {
  return {FromOption(from), ConfigOption(config),
          Size("max-shard-size", shard_bytes,
               "The most bytes of tensors in a shard, 5G by default, where IN has no shards of its "
               "own: bytes, or a number with K, M, G (1000) or Ki, Mi, Gi (1024).")};
}

}  // namespace dsv3::cli

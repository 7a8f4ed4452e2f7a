#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/option_table.h"
#include "convert/layouts/stacks.h"

namespace dsv3::cli {

// Options of commands that read training checkpoints.
Option ConfigOption(std::filesystem::path* config);
Option FromOption(std::optional<convert::Stack>* from);

// Both, and --max-shard-size of those that write shards.
std::vector<Option> TrainingOptionTable(std::optional<convert::Stack>* from,
                                        std::filesystem::path* config, std::uint64_t* shard_bytes);

}  // namespace dsv3::cli

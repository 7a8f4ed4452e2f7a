#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/option_table.h"
#include "convert/layouts/stacks.h"

namespace dsv3::cli {

// --from, --config and --max-shard-size, for commands that read training checkpoints.
std::vector<Option> TrainingOptionTable(std::optional<convert::Stack>* from, std::string* config,
                                        std::uint64_t* shard_bytes);

}  // namespace dsv3::cli

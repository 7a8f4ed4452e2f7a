#pragma once

#include <vector>

#include "cli/option_table.h"
#include "convert/recipes/conversion.h"

namespace dsv3::cli {

// The options of convert::RunOptions, for every command that converts.
std::vector<Option> RunOptionTable(convert::RunOptions* run);

// --part and --finish, for commands whose work several processes may share.
std::vector<Option> PartOptionTable(convert::RunOptions* run);

// --delete-source-shards and --yes, for commands whose source another place has.
std::vector<Option> DeletionOptionTable(convert::RunOptions* run, bool* yes);

// Puts `options` behind those of the command.
void AddOptions(std::vector<Option> options, Command& command);

}  // namespace dsv3::cli

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/option_table.h"
#include "convert/job/run_options.h"

namespace dsv3::cli {

// The options of convert::RunOptions, for every command that converts.
std::vector<Option> RunOptionTable(convert::RunOptions* run);

// Of these, the ones that pack and unpack have: files always have SHA-256 digests.
std::vector<Option> PackingOptionTable(convert::RunOptions* run);

// --part and --finish, for commands whose work several processes may share.
std::vector<Option> PartOptionTable(convert::RunOptions* run);

// --delete-source-shards and --yes, for commands whose source another place has.
std::vector<Option> DeletionOptionTable(convert::RunOptions* run, bool* yes);

// The argument OUT of a command that converts.
Argument OutputArgument(std::string* output);

// The last paragraph of the help of such a command.
inline constexpr std::string_view kCompletesInAnyCase =
    "Files appear in OUT under their names only when they are complete, the index after all "
    "shards. After an interruption of any kind the same command continues and gives the same "
    "bytes; on a finished OUT it checks sizes and headers and says that there is nothing to do.";

// Says of such a command that it stops by itself at a signal, continues when it is run again, and
// shares its work among processes.
void StopAndContinue(Command& command);

// Puts `options` behind those of the command.
void AddOptions(std::vector<Option> options, Command& command);

}  // namespace dsv3::cli

#pragma once

#include <string>

#include "cli/option_table.h"
#include "cli/parse.h"

namespace dsv3::cli {

// The command of a call as a shell takes it in any directory, without OUT, so that a journal can
// keep it although OUT is moved: the tool, the command, the options that are not of one run alone,
// and the other arguments; paths from the root. Call it when the arguments are placed.
std::string JobCommand(const Tool& tool, const ParsedCall& call);

}  // namespace dsv3::cli

#pragma once

#include <vector>

#include "cli/option_table.h"
#include "convert/job.h"

namespace dsv3::cli {

// The options of convert::RunOptions, for every command that converts.
std::vector<Option> RunOptionTable(convert::RunOptions* run);

}  // namespace dsv3::cli

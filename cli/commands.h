#pragma once

#include "cli/option_table.h"

// One function a command: it makes the command's table, which owns the options' storage.
namespace dsv3::cli {

Command Fp8ToBf16Command();
Command SampleCommand();
Command InspectCommand();

}  // namespace dsv3::cli

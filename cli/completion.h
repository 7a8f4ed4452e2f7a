#pragma once

#include <string>

#include "cli/option_table.h"

namespace dsv3::cli {

// A script that completes commands, options, the values of options with a fixed set of them, and
// paths for the arguments. `shell` is "bash", "zsh" or "fish". The script may be sourced or put
// where the shell looks for completions.
std::string CompletionScript(const Tool& tool, const std::string& shell);

}  // namespace dsv3::cli

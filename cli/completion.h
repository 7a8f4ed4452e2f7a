#pragma once

#include <string>

#include "cli/option_table.h"

namespace dsv3::cli {

// Scripts that complete commands, options, the values of options with a fixed set of them, and
// paths for the arguments. Each may be sourced or put where the shell looks for completions.
std::string BashCompletion(const Tool& tool);
std::string ZshCompletion(const Tool& tool);
std::string FishCompletion(const Tool& tool);

// The one for `shell`, which is "bash", "zsh" or "fish".
std::string CompletionScript(const Tool& tool, const std::string& shell);

}  // namespace dsv3::cli

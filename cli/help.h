#pragma once

#include <string>
#include <string_view>

#include "cli/option_table.h"

namespace dsv3::cli {

// The text that --help prints: for the whole tool when `command` is null; for an unnamed command it
// lists the named ones, too. At most 80 columns.
std::string HelpText(const Tool& tool, const Command* command);

// "dsv3-convert fp8-to-bf16", or the tool's name for a command without one.
std::string CallName(const Tool& tool, const Command& command);

// "dsv3-convert fp8-to-bf16 [OPTION]... IN OUT".
std::string Synopsis(const Tool& tool, const Command& command);

// The first sentence, without its full stop: for completions.
std::string FirstSentence(std::string_view text);

}  // namespace dsv3::cli

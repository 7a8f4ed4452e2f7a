#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/option_table.h"

namespace dsv3::cli {

// What --help prints: of the whole tool when `command` is null. At most 80 columns.
std::string HelpText(const Tool& tool, const Command* command);

// "dsv3-convert fp8-to-bf16", or the tool's name for its only command.
std::string CallName(const Tool& tool, const Command& command);

// What one version of the tools can do, for the tools that cannot do anything yet.
std::string NoJobsMessage(const Tool& tool);

// `text` broken into lines of at most `width` characters, without the line ends.
std::vector<std::string> WrapText(std::string_view text, std::size_t width);

// The first sentence, without its full stop: for completions.
std::string FirstSentence(std::string_view text);

}  // namespace dsv3::cli

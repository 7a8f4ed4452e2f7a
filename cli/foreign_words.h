#pragma once

#include <string>
#include <string_view>
#include <vector>

// Words that users know from other programs, and their counterparts here.
namespace dsv3::cli {

// Advice on an option that none of the tables has: one or two clauses, or nothing. `option` is
// without dashes; `known` are the options that may be meant.
std::string AdviceForOption(std::string_view option, const std::vector<std::string>& known);

// The same for the first word of a call of `tool` that is not a command.
std::string AdviceForCommand(std::string_view tool, std::string_view word);

}  // namespace dsv3::cli

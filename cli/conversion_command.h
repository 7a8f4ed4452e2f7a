#pragma once

#include <string>

#include "cli/tool_main.h"
#include "convert/job/runner.h"

// The common part of the commands that convert a checkpoint.
namespace dsv3::cli {

struct ConversionOptions {
  std::string input;
  std::string output;
  bool yes = false;  // delete source shards without asking
  convert::RunOptions run;
};

// What a command that converts fills: the common options, and those of its conversion.
template <typename RecipeOptions>
struct CommandOptions {
  ConversionOptions conversion;
  RecipeOptions recipe;
};

// Asks for confirmation where that is needed, converts and returns the report.
std::string RunConversion(const ConversionOptions& options,
                          const convert::ConversionKind& conversion, CommandContext& context);

}  // namespace dsv3::cli

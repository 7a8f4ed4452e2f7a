#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "cli/run_options.h"
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

// The argument IN of a command that reads a checkpoint; `what` is "FP8 checkpoint".
Argument InputArgument(std::string* input, std::string_view what);

// Puts the options of a command whose source may be deleted behind its own.
void AddConversionOptions(ConversionOptions* options, Command& command);

// The request of a call of the command.
convert::JobRequest RequestOf(const ConversionOptions& options, const CommandContext& context);

// Asks for confirmation where that is needed, converts and returns the report.
std::string RunConversion(const ConversionOptions& options,
                          const convert::ConversionKind& conversion, CommandContext& context);

// Has the command run the conversion that `kind` makes of its options (StopAndContinue).
template <typename RecipeOptions>
void SetConversion(const std::shared_ptr<CommandOptions<RecipeOptions>>& options,
                   convert::ConversionKind (*kind)(const RecipeOptions&), Command& command) {
  StopAndContinue(command);
  command.run = [options, kind](CommandContext& context) {
    return RunConversion(options->conversion, kind(options->recipe), context);
  };
}

}  // namespace dsv3::cli

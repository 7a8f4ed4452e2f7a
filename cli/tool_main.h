#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cli/console.h"
#include "cli/option_table.h"
#include "cli/parse.h"
#include "cli/progress_display.h"
#include "convert/catalog/progress.h"
#include "convert/scaleout/process_group.h"
#include "formats/error.h"

namespace dsv3::cli {

// The input of a command's run function.
struct CommandContext {
  const Tool& tool;
  const Command& command;
  const OutputOptions& output;
  ProgressDisplay& progress;
  const convert::StopToken& stop;
  // The command that makes the same output, without OUT (cli/job_command.h).
  const std::string job_command;
  // The processes that share the command's work; nullptr: this process works alone.
  convert::WorkSharing* sharing = nullptr;
  // Set by a command whose report has differences: the exit code is 1, and the report still goes to
  // stdout, because it is the text that was asked for.
  bool found_differences = false;
  // Set by a command of several checks where one of them could not run: the exit code is this one.
  std::optional<ErrorCode> failed_part = std::nullopt;
};

// A function such as convert::JoinProcessGroup, for tools whose commands share their work.
using JoinProcesses = std::unique_ptr<convert::ProcessGroup> (*)();

// The main function of every tool: parses, runs, prints, and alone decides the exit code.
// `make_tool` returns the tables; shared_options are added here. Where processes run together, one
// of them prints: process 0, or the first that failed.
int ToolMain(const std::function<Tool()>& make_tool, int argc, char** argv,
             JoinProcesses join = nullptr);

}  // namespace dsv3::cli

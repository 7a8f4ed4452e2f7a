#pragma once

#include <string>

#include "cli/tool_main.h"
#include "convert/recipes/conversion.h"
#include "formats/io/file_system.h"

// The common part of the commands that convert a checkpoint.
namespace dsv3::cli {

struct ConversionOptions {
  std::string input;
  std::string output;
  bool yes = false;  // delete source shards without asking
  convert::RunOptions run;
};

using Conversion = convert::ConversionReport (*)(const convert::ConversionRequest& request,
                                                 formats::FileSystem& fs,
                                                 convert::ProgressSink& progress,
                                                 const convert::StopToken& stop);

// Asks for confirmation where that is needed, converts and returns the report. `request` holds the
// recipe's options; everything else is taken from `options`.
std::string RunConversion(const ConversionOptions& options, convert::ConversionRequest request,
                          Conversion conversion, CommandContext& context);

}  // namespace dsv3::cli

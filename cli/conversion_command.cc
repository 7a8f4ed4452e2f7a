#include "cli/conversion_command.h"

#include <fmt/format.h>

#include "cli/confirm_deletion.h"
#include "cli/conversion_report.h"
#include "convert/job/process_messages.h"
#include "formats/io/file_system.h"

namespace dsv3::cli {

Argument InputArgument(std::string* input, std::string_view what) {
  return {"IN",
          fmt::format("The {}: a directory, a single safetensors file, a model directory of the "
                      "Hugging Face hub cache, or rank shards of dsv3-reshard.",
                      what),
          input};
}

void AddConversionOptions(ConversionOptions* options, Command& command) {
  AddOptions(RunOptionTable(&options->run), command);
  AddOptions(PartOptionTable(&options->run), command);
  AddOptions(DeletionOptionTable(&options->run, &options->yes), command);
}

convert::JobRequest RequestOf(const ConversionOptions& options, const CommandContext& context) {
  convert::JobRequest request{options.input, options.output, options.run};
  request.run.sharing = context.sharing;
  request.run.command = context.job_command;
  return request;
}

std::string RunConversion(const ConversionOptions& options,
                          const convert::ConversionKind& conversion, CommandContext& context) {
  convert::JobRequest request = RequestOf(options, context);
  // Processes that share a run are refused the deletion, and cannot ask.
  if (options.run.delete_source_shards && !options.run.dry_run && !options.yes &&
      !convert::IsShared(context.sharing)) {
    RequireSomebodyToAsk();
    request.run.confirm_deletion = ConfirmDeletion;
  }
  const convert::ConversionReport report = convert::RunConversion(
      conversion, request, formats::PosixFileSystem(), context.progress, context.stop);
  WarnOfCounts(report, context.progress);
  return context.output.json ? ConversionReportJson(request, report, context.tool.name)
                             : ConversionReportText(request, report);
}

}  // namespace dsv3::cli

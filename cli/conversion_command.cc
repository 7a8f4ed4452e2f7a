#include "cli/conversion_command.h"

#include "cli/confirm_deletion.h"
#include "cli/conversion_report.h"

namespace dsv3::cli {

std::string RunConversion(const ConversionOptions& options, convert::ConversionRequest request,
                          Conversion conversion, CommandContext& context) {
  request.input = options.input;
  request.output = options.output;
  request.run = options.run;
  if (options.run.delete_source_shards && !options.run.dry_run && !options.yes) {
    ConfirmDeletion(request.input);
  }
  const convert::ConversionReport report =
      conversion(request, formats::PosixFileSystem(), context.progress, context.stop);
  WarnOfCounts(report, context.progress);
  return context.output.json ? ConversionReportJson(request, report, context.tool.name)
                             : ConversionReportText(request, report);
}

}  // namespace dsv3::cli

#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "convert/job/runner.h"
#include "formats/json/json_writer.h"

namespace dsv3::cli {

// The report of a conversion for a person, several lines.
std::string ConversionReportText(const convert::JobRequest& request,
                                 const convert::ConversionReport& report);

// Warns of tensors in which something was counted, a handful by name.
void WarnOfCounts(const convert::ConversionReport& report, convert::ProgressSink& progress);

// Parts that reports of other commands share.

// One line: the label in its own column.
void ReportLine(std::string& out, std::string_view label, const std::string& text);
// The path of the manifest, for the report.
std::string ManifestText(const std::filesystem::path& output);
// The files that were written and how long it took, the files of an earlier run, warnings, and the
// command that is still to run.
void AppendRunLines(std::string& out, const convert::RunOptions& run,
                    const convert::ConversionReport& report);
std::string NothingToDoText(const std::filesystem::path& output,
                            const convert::ConversionReport& report);
// For a dry run: the title, and the files where they fit a screen.
std::string PlannedFilesText(const std::filesystem::path& output,
                             const convert::ConversionReport& report);
// For a dry run: the files where they do not, bytes, disk and memory.
void AppendPlanLines(std::string& out, const convert::ConversionReport& report);
// Members of JSON that every conversion has.
void ConversionMembers(formats::JsonWriter& json, const std::filesystem::path& input,
                       const std::filesystem::path& output, const convert::ConversionReport& report,
                       std::string_view tool);

// The report as one JSON object with a line end; docs/json.md describes it.
std::string ConversionReportJson(const convert::JobRequest& request,
                                 const convert::ConversionReport& report, std::string_view tool);

}  // namespace dsv3::cli

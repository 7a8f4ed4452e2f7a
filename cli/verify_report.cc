#include "cli/verify_report.h"

#include <algorithm>
#include <system_error>

#include <fmt/format.h>
#include <tbb/info.h>

#include "cli/json_members.h"
#include "cli/junit.h"
#include "cli/output_file.h"
#include "cli/sarif.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/version.h"
#include "formats/error.h"
#include "formats/io/durable_file.h"

namespace dsv3::cli {

namespace {

using formats::Severity;

std::string Verdict(const VerifyReport& report) {
  const std::size_t errors = report.verification.Count(Severity::kError);
  const std::size_t warnings = report.verification.Count(Severity::kWarning);
  std::string counts;
  if (errors > 0) counts = FormatCountOf(errors, "error");
  if (warnings > 0) {
    counts += (counts.empty() ? "" : ", ") + FormatCountOf(warnings, "warning");
  }
  std::string text = report.passes ? "OK: " : "FAILED: ";
  text += report.passes && counts.empty() ? report.good : counts;
  if (!report.passes && errors == 0) text += ", which --strict counts as errors";
  if (!report.consequence.empty()) text += "; " + report.consequence;
  return text + "\n";
}

// Whoever reads a single line must know what it is about.
std::string FindingLine(const formats::Finding& finding) {
  std::string message = finding.message;
  if (!finding.tensor.empty() && message.find(finding.tensor) == std::string::npos) {
    message = "tensor " + QuoteForMessage(finding.tensor) + ": " + message;
  }
  if (!finding.file.empty() && message.find(finding.file) == std::string::npos) {
    message = finding.file + ": " + message;
  }
  return fmt::format("{}: {} [{}]\n", finding.severity == Severity::kError ? "error" : "warning",
                     Printable(message), Printable(finding.kind));
}

std::string VerifyJson(const VerifyReport& report, const CommandContext& context) {
  formats::JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "tool", context.tool.name);
  StringMember(json, "version", kVersion);
  StringMember(json, "command", context.command.name);
  StringMember(json, "input", report.input);
  BoolMember(json, "passes", report.passes);
  UintMember(json, "errors", report.verification.Count(Severity::kError));
  UintMember(json, "warnings", report.verification.Count(Severity::kWarning));
  StringsMember(json, "files", report.verification.files);
  FindingsMember(json, "findings", report.verification.findings);
  if (report.members) report.members(json);
  json.EndObject();
  return json.Take() + "\n";
}

// The directory that relative names are below.
std::filesystem::path DirectoryOf(const std::string& input) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(input, error);
  return std::filesystem::is_directory(absolute, error) ? absolute : absolute.parent_path();
}

}  // namespace

Option ThreadsOption(VerifyOptions* options) {
  constexpr std::uint64_t kMostThreads = 4096;
  return Number(
      "threads", "N", kMostThreads, "all processors",
      [options](std::uint64_t value) { options->threads = static_cast<unsigned>(value); },
      "Compute threads; 0, the default, is one for each processor. The report does not depend on "
      "it.",
      'j');
}

Option StrictOption(VerifyOptions* options) {
  return Flag("strict", &options->strict, "Fail on warnings, too.");
}

void AppendFindingFileOptions(VerifyOptions* options, std::vector<Option>& table) {
  table.push_back(Text("junit", "FILE", &options->junit,
                       "Also write the findings to FILE in JUnit's XML, one test case for each "
                       "file that was checked."));
  table.push_back(
      Text("sarif", "FILE", &options->sarif, "Also write the findings to FILE in SARIF 2.1.0."));
}

unsigned ThreadCount(const VerifyOptions& options) {
  if (options.threads > 0) return options.threads;
  return static_cast<unsigned>(std::max(1, tbb::info::default_concurrency()));
}

void CheckFindingFiles(const VerifyOptions& options) {
  CheckOutputFile("junit", options.junit);
  CheckOutputFile("sarif", options.sarif);
}

std::string FinishReport(const VerifyReport& report, const VerifyOptions& options,
                         CommandContext& context) {
  formats::FileSystem& fs = formats::PosixFileSystem();
  FindingsDocument document;
  document.tool = context.tool.name;
  document.command = context.command.name;
  document.directory = report.directory.empty() ? DirectoryOf(report.input) : report.directory;
  document.verification = &report.verification;
  document.warnings_fail = options.strict;
  document.passes = report.passes;
  if (!options.junit.empty()) formats::WriteFileDurably(fs, options.junit, JUnitText(document));
  if (!options.sarif.empty()) formats::WriteFileDurably(fs, options.sarif, SarifText(document));
  context.found_differences = !report.passes;
  return context.output.json ? VerifyJson(report, context) : VerifyText(report);
}

std::string VerifyText(const VerifyReport& report) {
  std::string text = Printable(report.title) + "\n";
  Table table("ll");
  for (const auto& [label, line] : report.lines) table.Add({label, line});
  text += table.Text("  ");
  if (!report.detail.empty()) text += "\n" + report.detail;
  if (!report.verification.findings.empty()) {
    text += "\n";
    for (const formats::Finding& finding : report.verification.findings) {
      text += FindingLine(finding);
    }
  }
  return text + "\n" + Verdict(report);
}

}  // namespace dsv3::cli

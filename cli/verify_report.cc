#include "cli/verify_report.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <system_error>

#include <fmt/format.h>
#include <tbb/info.h>
#include <unistd.h>

#include "cli/caught_error.h"
#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/junit.h"
#include "cli/output_file.h"
#include "cli/sarif.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/version.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using formats::Severity;

// Findings of a kind that are shown without --all.
constexpr std::size_t kFirstOfAKind = 3;

// A line that is read alone must say what it is about.
std::string FindingLine(const formats::Finding& finding, bool color) {
  std::string message = finding.message;
  if (!finding.tensor.empty() && message.find(finding.tensor) == std::string::npos) {
    message = "tensor " + QuoteForMessage(finding.tensor) + ": " + message;
  }
  const std::string file = formats::ShownPath(finding.file);
  if (!finding.file.empty() && message.find(file) == std::string::npos) {
    message = file + ": " + message;
  }
  const bool error = finding.severity == Severity::kError;
  return fmt::format(
      "{}: {} [{}]\n",
      Colored(error ? "error" : "warning", error ? Tone::kBad : Tone::kDoubtful, color),
      Printable(message), Printable(finding.kind));
}

// The directory that relative names are below.
std::filesystem::path DirectoryOf(const std::string& input) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(input, error);
  return std::filesystem::is_regular_file(absolute, error) ? absolute.parent_path() : absolute;
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

Option MemoryOption(std::uint64_t* memory_bytes) {
  return Size("memory", memory_bytes,
              "Bound for the buffers, 160Mi by default: bytes, or a number with K, M, G (1000) or "
              "Ki, Mi, Gi (1024). The report does not depend on it.");
}

Option StrictOption(VerifyOptions* options) {
  return Flag("strict", &options->strict, "Fail on warnings, too.");
}

void AppendReportOptions(VerifyOptions* options, std::vector<Option>& table) {
  table.push_back(Flag("all", &options->all,
                       "Show every finding and every row of tables, not the worst and the first "
                       "few. --json and --junit always have all findings, --sarif up to 25,000."));
  table.push_back(
      PathOption("junit", "FILE", PathUse::kOutputFile, &options->junit,
                 "Also write the findings to FILE in JUnit's XML, one test case for each "
                 "file that was checked."));
  table.push_back(PathOption("sarif", "FILE", PathUse::kOutputFile, &options->sarif,
                             "Also write the findings to FILE in SARIF 2.1.0."));
}

unsigned ThreadCount(const VerifyOptions& options) {
  if (options.threads > 0) return options.threads;
  return static_cast<unsigned>(std::max(1, tbb::info::default_concurrency()));
}

void CheckFindingFiles(const VerifyOptions& options) {
  CheckOutputFile("junit", options.junit, OutputContent::kJUnit);
  CheckOutputFile("sarif", options.sarif, OutputContent::kSarif);
  RequireDistinctFiles({{"junit", options.junit}, {"sarif", options.sarif}});
}

CheckRun RunTimed(const std::string& command, const VerifyOptions& options,
                  const CommandContext& context, const std::function<VerifyReport()>& check) {
  CheckRun run;
  CheckRecord& record = run.record;
  record.command = command;
  record.warnings_fail = options.strict;
  record.begin = std::chrono::system_clock::now();
  const auto begin = std::chrono::steady_clock::now();
  try {
    run.report = check();
    record.verification = run.report->verification;
    record.passes = run.report->passes;
  } catch (...) {
    run.thrown = std::current_exception();
    record.error = CaughtError(context.tool.name);
    record.passes = false;
  }
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return run;
}

void WriteFindingFiles(const std::string& input, const std::filesystem::path& directory,
                       std::vector<CheckRecord> checks, const VerifyOptions& options,
                       const CommandContext& context) {
  if (options.junit.empty() && options.sarif.empty()) return;
  const bool call_is_wrong =
      checks.size() == 1 && checks[0].error && checks[0].error->code() == ErrorCode::kUsage;
  if (call_is_wrong) return;
  FindingsDocument document;
  document.tool = context.tool.name;
  document.command = context.command.name;
  document.directory = directory.empty() ? DirectoryOf(input) : directory;
  document.checks = std::move(checks);
  if (!options.junit.empty()) WriteOutputFile(options.junit, JUnitText(document));
  if (!options.sarif.empty()) WriteOutputFile(options.sarif, SarifText(document));
}

std::string RunCheck(const std::string& input, const VerifyOptions& options,
                     CommandContext& context, const std::function<VerifyReport()>& check) {
  CheckFindingFiles(options);
  CheckRun run = RunTimed(context.command.name, options, context, check);
  if (!run.report) {
    try {
      WriteFindingFiles(input, "", {std::move(run.record)}, options, context);
    } catch (const Error&) {
      // The error of the check comes first.
    }
    std::rethrow_exception(run.thrown);
  }
  const VerifyReport& report = *run.report;
  const auto write = [&] {
    WriteFindingFiles(input, report.directory, {std::move(run.record)}, options, context);
  };
  context.found_differences = !report.passes;
  if (context.output.json) {
    write();
    formats::JsonWriter json(2);
    WriteReport(json, report, context.tool.name, context.command.name);
    return json.Take() + "\n";
  }
  const bool color = UseColor(context.output.color, STDOUT_FILENO);
  std::string text =
      context.output.quiet ? VerdictLine(report, color) : VerifyText(report, options.all, color);
  ShowIfItThrows(text, write);
  return text;
}

void ShowIfItThrows(const std::string& text, const std::function<void()>& write) {
  try {
    write();
  } catch (const Error&) {
    WriteStdout(text);
    throw;
  }
}

std::string VerdictLine(const VerifyReport& report, bool color) {
  const std::size_t errors = report.verification.Count(Severity::kError);
  const std::size_t warnings = report.verification.Count(Severity::kWarning);
  std::string counts;
  if (errors > 0) counts = FormatCountOf(errors, "error");
  if (warnings > 0) {
    counts += (counts.empty() ? "" : ", ") + FormatCountOf(warnings, "warning");
  }
  std::string text =
      report.passes ? Colored("OK:", Tone::kGood, color) : Colored("FAILED:", Tone::kBad, color);
  text += " " + (report.passes && counts.empty() ? report.good : counts);
  if (!report.passes && errors == 0) text += ", which --strict counts as errors";
  if (!report.consequence.empty()) text += "; " + report.consequence;
  return text + "\n";
}

std::string MoreLine(std::size_t more) {
  return more == 0 ? "" : fmt::format("and {} more (--all shows them)\n", FormatCount(more));
}

std::string FindingsText(const formats::Findings& findings, bool all, bool color) {
  std::string text;
  std::map<std::string, std::size_t> counts;
  std::vector<std::string> kinds;  // as they come
  for (const formats::Finding& finding : findings) {
    const std::size_t count = ++counts[finding.kind];
    if (count == 1) kinds.push_back(finding.kind);
    if (all || count <= kFirstOfAKind) text += FindingLine(finding, color);
  }
  for (const std::string& kind : kinds) {
    if (all || counts[kind] <= kFirstOfAKind) continue;
    text += fmt::format("and {} more of {} (--all shows them)\n",
                        FormatCount(counts[kind] - kFirstOfAKind), Printable(kind));
  }
  return text;
}

std::string VerifyText(const VerifyReport& report, bool all, bool color) {
  std::string text = Printable(report.title) + "\n";
  Table table("ll");
  for (const auto& [label, line] : report.lines) table.Add({label, line});
  text += table.Text("  ");
  if (!report.detail.empty()) text += "\n" + report.detail;
  const std::string findings = FindingsText(report.verification.findings, all, color);
  if (!findings.empty()) text += "\n" + findings;
  return text + "\n" + VerdictLine(report, color);
}

void WriteReport(formats::JsonWriter& json, const VerifyReport& report, const std::string& tool,
                 const std::string& command) {
  json.BeginObject();
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "command", command);
  StringMember(json, "input", report.input);
  json.Bool("passes", report.passes);
  json.Uint("errors", report.verification.Count(Severity::kError));
  json.Uint("warnings", report.verification.Count(Severity::kWarning));
  StringsMember(json, "files", report.verification.files);
  FindingsMember(json, "findings", report.verification.findings);
  if (report.members) report.members(json);
  json.EndObject();
}

}  // namespace dsv3::cli

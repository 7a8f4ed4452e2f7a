#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/findings_document.h"
#include "cli/option_table.h"
#include "convert/verify/verification.h"
#include "formats/json/json_writer.h"

// The common part of dsv3-verify's commands: options, and the forms of their reports. docs/json.md
// and docs/ci.md describe the forms.
namespace dsv3::cli {

// Options of every check.
struct VerifyOptions {
  bool strict = false;  // warnings fail the check, too
  bool all = false;     // the text has every finding and every row
  std::string junit;    // where to write; empty: nowhere
  std::string sarif;
  unsigned threads = 0;  // 0: all processors
};

Option ThreadsOption(VerifyOptions* options);
Option MemoryOption(std::uint64_t* memory_bytes);
Option StrictOption(VerifyOptions* options);
// --all, --junit and --sarif.
void AppendReportOptions(VerifyOptions* options, std::vector<Option>& table);

// The number of compute threads that the options ask for, at least 1.
unsigned ThreadCount(const VerifyOptions& options);

// The result of a check, in the words of one command.
struct VerifyReport {
  std::string input;  // the checked path, as the user gave it
  // The directory that files of findings are relative to; empty: the input's own.
  std::filesystem::path directory;
  std::string title;  // "Checked the structure of DIR"
  // Label → text, for a person.
  std::vector<std::pair<std::string, std::string>> lines;
  std::string detail;  // tables and so on, for a person; may be empty. Fits a screen without --all.
  std::string good;    // the last line when there is no finding: "every file is as …"
  // The step that the command left out because of its findings: "nothing was written"; may be
  // empty.
  std::string consequence;
  convert::Verification verification;
  bool passes = true;
  // Writes further members of the JSON object.
  std::function<void(formats::JsonWriter&)> members;
};

// A check and its outcome.
struct CheckRun {
  CheckRecord record;
  std::optional<VerifyReport> report;  // nothing where it threw or was skipped
  std::exception_ptr thrown;           // the exception that it threw; record.error has its text
};

// Runs a check and takes its time. Exceptions are stored in the CheckRun, not thrown.
CheckRun RunTimed(const std::string& command, const VerifyOptions& options,
                  const CommandContext& context, const std::function<VerifyReport()>& check);

// Throws Error where a file of findings could not be written, so that this shows before hours of
// work (see CheckOutputFile).
void CheckFindingFiles(const VerifyOptions& options);

// Writes the files of findings that the options name, unless the only check says that the call
// itself is wrong. `input` is the path that the user gave; findings are relative to `directory`, or
// where that is empty, to the input's own.
void WriteFindingFiles(const std::string& input, const std::filesystem::path& directory,
                       std::vector<CheckRecord> checks, const VerifyOptions& options,
                       const CommandContext& context);

// Calls `write`; where it throws Error, the report for people goes to the standard output first: it
// may be that of hours.
void ShowIfItThrows(const std::string& text, const std::function<void()>& write);

// Does all of the above for a command of one check, sets the exit code, and returns the text for
// stdout. If the check throws, writes that error to the files of findings and throws it again.
std::string RunCheck(const std::string& input, const VerifyOptions& options,
                     CommandContext& context, const std::function<VerifyReport()>& check);

// For a person: title, lines, detail, findings, verdict. Without `all` the first few findings of
// each kind, and how many more there are.
std::string VerifyText(const VerifyReport& report, bool all, bool color);
std::string FindingsText(const formats::Findings& findings, bool all, bool color);
// "OK: every file is as recorded\n", "FAILED: 3 errors\n".
std::string VerdictLine(const VerifyReport& report, bool color);

// The JSON object of one check.
void WriteReport(formats::JsonWriter& json, const VerifyReport& report, const std::string& tool,
                 const std::string& command);

// Rows of a table that is shown without --all.
inline constexpr std::size_t kFirstRows = 10;
// "and 163 more (--all shows them)\n"; empty where nothing is left out.
std::string MoreLine(std::size_t more);

}  // namespace dsv3::cli

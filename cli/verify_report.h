#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/option_table.h"
#include "convert/verify/verification.h"
#include "formats/json/json_writer.h"

// What the commands of dsv3-verify share: options, and the forms in which they tell what they
// found. docs/json.md and docs/ci.md describe the forms.
namespace dsv3::cli {

// Options of every check.
struct VerifyOptions {
  bool strict = false;  // warnings fail the check, too
  std::string junit;    // where to write; empty: nowhere
  std::string sarif;
  unsigned threads = 0;  // 0: all processors
};

Option ThreadsOption(VerifyOptions* options);
Option StrictOption(VerifyOptions* options);
// --junit and --sarif.
void AppendFindingFileOptions(VerifyOptions* options, std::vector<Option>& table);

// The number of compute threads that the options ask for, at least 1.
unsigned ThreadCount(const VerifyOptions& options);

// What a check found, in the words of one command.
struct VerifyReport {
  std::string input;  // what was checked, as the user gave it
  // The one that files of findings are relative to; empty: the input's own.
  std::filesystem::path directory;
  std::string title;  // "Checked the structure of DIR"
  // Label → text, for a person.
  std::vector<std::pair<std::string, std::string>> lines;
  std::string detail;  // tables and so on, for a person; may be empty
  std::string good;    // the last line when there is nothing to tell: "every file is as …"
  // What the command did not do for its findings: "nothing was written"; may be empty.
  std::string consequence;
  convert::Verification verification;
  bool passes = true;
  // Writes further members of the JSON object.
  std::function<void(formats::JsonWriter&)> members;
};

// Throws Error (kUsage) where a file of findings could not be written because its directory is not
// there, so that this shows before hours of work.
void CheckFindingFiles(const VerifyOptions& options);

// Writes the files of findings, sets the exit code, and returns what belongs on stdout.
std::string FinishReport(const VerifyReport& report, const VerifyOptions& options,
                         CommandContext& context);

// For a person: title, lines, detail, all findings, verdict.
std::string VerifyText(const VerifyReport& report);

}  // namespace dsv3::cli

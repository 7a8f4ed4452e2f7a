#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/verify/verification.h"
#include "formats/error.h"

// Findings in the form from which files for other programs are written.
namespace dsv3::cli {

// One check of the call.
struct CheckRecord {
  std::string command;  // "checksum check"
  convert::Verification verification;
  bool warnings_fail = false;  // --strict
  bool passes = true;
  std::chrono::system_clock::time_point begin;
  double seconds = 0;
  std::optional<Error> error;  // the check could not run
  std::string skipped;         // why it does not apply; empty: it does
};

struct FindingsDocument {
  std::string tool;                 // "dsv3-verify"
  std::string command;              // of the call: "checksum check", "all"
  std::filesystem::path directory;  // absolute; files of findings are relative to it
  std::vector<CheckRecord> checks;
};

// "2026-11-29T04:59:48", in UTC.
std::string UtcText(std::chrono::system_clock::time_point time);

// The directory from which other programs name files: the nearest one above `directory`, or itself,
// that holds ".git"; else the current directory where `directory` is below it; else `directory`.
std::filesystem::path SourceRoot(const std::filesystem::path& directory);

}  // namespace dsv3::cli

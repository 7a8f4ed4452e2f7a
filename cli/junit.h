#pragma once

#include <filesystem>
#include <string>

#include "convert/verify/verification.h"

namespace dsv3::cli {

// A check's findings on the way into a file for other programs.
struct FindingsDocument {
  std::string tool;                 // "dsv3-verify"
  std::string command;              // "checksum check"
  std::filesystem::path directory;  // absolute; what files of findings are relative to
  const convert::Verification* verification = nullptr;
  bool warnings_fail = false;  // --strict
  bool passes = true;
};

// JUnit's XML: one test suite, one test case for each file that was checked or that a finding
// concerns, one more for findings that concern no file. A test case fails by errors, and by
// warnings where they count; other warnings are its output.
std::string JUnitText(const FindingsDocument& document);

// Text as XML 1.0 allows it within elements and attributes: markup and line ends escaped, bytes
// that are no UTF-8 and characters that XML has no form for as \xNN or \uNNNN.
std::string XmlText(std::string_view text);

}  // namespace dsv3::cli

#pragma once

#include <string>
#include <string_view>

#include "cli/findings_document.h"

namespace dsv3::cli {

// JUnit's XML: one test suite for each check, one test case for each file that was checked or that
// a finding concerns, and one, "(checkpoint)", for the check as a whole: its time, the findings
// that concern no file, the error where it could not run, the reason where it does not apply. A
// test case fails by errors, and by warnings where they count; other warnings are its output.
std::string JUnitText(const FindingsDocument& document);

// Text as XML 1.0 allows it within elements and attributes: markup and line ends escaped, bytes
// that are not UTF-8, and characters that XML cannot express, as \xNN or \uNNNN.
std::string XmlText(std::string_view text);

}  // namespace dsv3::cli

#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "formats/finding.h"

namespace dsv3::convert {

// What every check of a checkpoint reports; reports of single checks hold one and add their own.
struct Verification {
  std::string check;               // "checksum", "structure", "numeric", "compare", "signature"
  std::vector<std::string> files;  // what was looked at, relative to the directory, sorted
  formats::Findings findings;      // all of them, in the order of files, then of data

  std::size_t Count(formats::Severity severity) const {
    return static_cast<std::size_t>(std::count_if(
        findings.begin(), findings.end(),
        [&](const formats::Finding& finding) { return finding.severity == severity; }));
  }
  // Whether the check passes: no error, and with `strict` no warning either.
  bool Passes(bool strict) const {
    return Count(formats::Severity::kError) == 0 &&
           (!strict || Count(formats::Severity::kWarning) == 0);
  }
};

}  // namespace dsv3::convert

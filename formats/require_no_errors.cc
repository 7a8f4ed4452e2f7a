#include "formats/require_no_errors.h"

#include <algorithm>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::formats {

void RequireNoErrors(const Findings& findings, const OtherErrors& others,
                     const std::string& prefix) {
  const auto is_error = [](const Finding& finding) { return finding.severity == Severity::kError; };
  const auto first = std::find_if(findings.begin(), findings.end(), is_error);
  if (first == findings.end()) return;
  std::string message = prefix + first->message;
  const auto more = std::count_if(first + 1, findings.end(), is_error);
  if (more > 0) {
    message += fmt::format(" ({} more {})", more, more == 1 ? others.one : others.many);
  }
  throw Error(first->kind == "shard-io-error" ? ErrorCode::kIo : ErrorCode::kBadInput,
              std::move(message), {first->file, first->tensor});
}

}  // namespace dsv3::formats

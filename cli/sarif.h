#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "cli/findings_document.h"

namespace dsv3::cli {

// GitHub refuses files with more results in a run.
inline constexpr std::size_t kMostSarifResults = 25'000;

// SARIF 2.1.0: one run of all checks, each an invocation of it; kinds of findings are its rules.
// Files are relative to SourceRoot, whose place is given as the base "SRCROOT"; that of the
// directory is "CHECKPOINT". Tensors are logical locations.
// Of more findings than kMostSarifResults the errors come first, and a notification says how many
// are left out.
std::string SarifText(const FindingsDocument& document);

// A relative or absolute path as part of a URI (RFC 3986): bytes other than unreserved characters
// and '/' become %XX.
std::string UriPath(std::string_view path);

}  // namespace dsv3::cli

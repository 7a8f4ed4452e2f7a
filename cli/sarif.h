#pragma once

#include <string>
#include <string_view>

#include "cli/findings_document.h"

namespace dsv3::cli {

// SARIF 2.1.0: one run of all checks, each an invocation of it; kinds of findings are its rules.
// Files are relative to SourceRoot, whose place is given as the base "SRCROOT"; that of the
// directory is "CHECKPOINT". Tensors are logical locations.
std::string SarifText(const FindingsDocument& document);

// A relative or absolute path as part of a URI (RFC 3986): bytes other than unreserved characters
// and '/' become %XX.
std::string UriPath(std::string_view path);

}  // namespace dsv3::cli

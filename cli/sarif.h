#pragma once

#include <string>
#include <string_view>

#include "cli/junit.h"

namespace dsv3::cli {

// SARIF 2.1.0: one run; kinds of findings are its rules. Files are relative to the directory, whose
// place is given as the base "CHECKPOINT"; tensors are logical locations.
std::string SarifText(const FindingsDocument& document);

// A relative or absolute path as part of a URI (RFC 3986): bytes other than unreserved characters
// and '/' become %XX.
std::string UriPath(std::string_view path);

}  // namespace dsv3::cli

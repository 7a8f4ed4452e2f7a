#pragma once

#include <string>

#include "cli/option_table.h"

namespace dsv3::cli {

// The manual page of a tool in mdoc(7) form, section 1, all commands in it.
std::string ManPage(const Tool& tool);

}  // namespace dsv3::cli

#pragma once

#include <string>

#include "formats/error.h"

namespace dsv3::cli {

// {"error": {…}} with a line end, as docs/json.md describes it.
std::string ErrorJson(const Error& error);

}  // namespace dsv3::cli

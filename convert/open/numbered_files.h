#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/finding.h"

namespace dsv3::convert {

// Of files whose names say that they are numbered (model-00003-of-00163.safetensors) those that are
// not among `files`: one "missing-shard", an error, for each set of which some are not there, its
// file the first of them. `nothing_else` follows in the message what the names say.
formats::Findings FindMissingNumbers(const std::vector<std::string>& files,
                                     std::string_view nothing_else);

}  // namespace dsv3::convert

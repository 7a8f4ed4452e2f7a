#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/inspect/inspection.h"

// The tensors of a checkpoint one by one, by their positions in its catalog, from headers alone.
namespace dsv3::cli {

// A line for each: name, dtype, shape, bytes, file.
std::string ListText(const convert::Inspection& inspection,
                     const std::vector<std::uint32_t>& positions);

// The same as one JSON object.
std::string ListJson(const convert::Inspection& inspection,
                     const std::vector<std::uint32_t>& positions, std::string_view tool);

}  // namespace dsv3::cli

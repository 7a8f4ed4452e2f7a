#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "convert/inspect/inspection.h"

// The reports of dsv3-inspect on GGUF files (Inspection::gguf is there).
namespace dsv3::cli {

// Totals, keys and tensors, in columns, for a person. Tables are cut to `columns` as Table::Text
// does it.
std::string GgufText(const convert::Inspection& inspection, std::size_t columns);

// The same as one JSON object.
std::string GgufJson(const convert::Inspection& inspection, std::string_view tool);

}  // namespace dsv3::cli

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "convert/inspect/inspection.h"
#include "convert/inspect/tensor_statistics.h"

// What dsv3-inspect shows. Texts end with a line end; docs/inspect.md describes both forms.
namespace dsv3::cli {

// Totals, findings and the tree of tensors, in columns, for a person.
std::string InspectionText(const convert::Inspection& inspection);

// The same as one JSON object.
std::string InspectionJson(const convert::Inspection& inspection, std::string_view tool);

// One tensor: header, place, statistics.
std::string TensorText(const convert::Inspection& inspection, std::uint32_t position,
                       const convert::TensorStatistics& statistics);
std::string TensorJson(const convert::Inspection& inspection, std::uint32_t position,
                       const convert::TensorStatistics& statistics, std::string_view tool);

}  // namespace dsv3::cli

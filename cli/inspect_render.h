#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/inspect/inspection.h"
#include "convert/inspect/tensor_statistics.h"

// The reports of dsv3-inspect. Texts end with a line end; docs/inspect.md describes both forms.
namespace dsv3::cli {

// Totals, findings and the tree of tensors, in columns, for a person. The tree is cut to `columns`
// as Table::Text does it.
std::string InspectionText(const convert::Inspection& inspection, std::size_t columns = 0);

// The same as one JSON object.
std::string InspectionJson(const convert::Inspection& inspection, std::string_view tool);

struct MeasuredTensor {
  std::uint32_t position = 0;  // in the catalog
  convert::TensorStatistics statistics;
};

// One tensor: header, place, statistics.
std::string TensorText(const convert::Inspection& inspection, const MeasuredTensor& measured);
std::string TensorJson(const convert::Inspection& inspection, const MeasuredTensor& measured,
                       std::string_view tool);
// Those that a glob matches, as one object with an array.
std::string TensorsJson(const convert::Inspection& inspection,
                        const std::vector<MeasuredTensor>& measured, std::string_view tool);

}  // namespace dsv3::cli

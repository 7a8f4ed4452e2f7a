#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/inspect/summary.h"

namespace dsv3::cli {

// A line of the tree, before it is laid out in columns.
struct InspectLine {
  bool heading = false;  // of the lines below it that are indented
  bool indented = false;
  std::string name;   // relative to the heading
  std::string dtype;  // with its scale's: "F8_E4M3 + F32"
  std::string shape;
  std::uint64_t tensors = 0;
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;
};

// The tree as lines: outermost ranges that hold several tensors become headings, everything below
// them is named relative to them, and neighbours that differ in one component only share a line
// ("{gate,up}_proj.weight").
std::vector<InspectLine> InspectLines(const convert::SummaryNode& root);

}  // namespace dsv3::cli

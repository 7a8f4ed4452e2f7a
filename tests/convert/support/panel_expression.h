#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"

namespace dsv3::testing {

// A stand-in for quantising: a U8 value made in panels of rows of a [rows, cols] tensor of 2-byte
// elements, and beside it a tensor with one 32-bit sum for each `block_cols` columns of a panel.
// Each byte of the value depends on the sum of its whole block.
struct Panels {
  std::uint32_t source = 0;
  std::uint64_t panel_rows = 1;
  std::uint64_t block_cols = 1;
  // A tensor that holds the sums, but for those of blocks that were edited.
  std::optional<std::uint32_t> expected_sums = std::nullopt;
};

struct PanelExpressions {
  convert::ExpressionPtr value;
  convert::ExpressionPtr sums;
};
PanelExpressions MakePanels(const convert::Catalog& catalog, const Panels& panels);

// What they make of the source's bytes, and what is counted on the way.
struct PanelResult {
  std::string value;
  std::string sums;
  quant::Quality quality;
};
PanelResult ExpectedPanels(std::string_view source, std::uint64_t rows, std::uint64_t cols,
                           const Panels& panels);

}  // namespace dsv3::testing

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"

namespace dsv3::convert {

// A norm whose output static W8A8 of msmodelslim shifts, to leave out outliers: X.bias is added to
// it, and each linear layer behind it takes W · X.bias back in its quant_bias. The architecture has
// no such bias.
struct ShiftedNorm {
  std::uint32_t bias = 0;  // position of X.bias
  // The linear layers behind it that the catalog holds a weight of, in any form: "….q_a_proj".
  std::vector<std::string> modules;
};

// Norms of layers with a bias of floats, where a layer behind them has a quant_bias.
std::vector<ShiftedNorm> FindShiftedNorms(const Catalog& catalog);

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"

// Which tensors of two checkpoints are compared with which; an internal part of compare.h.
namespace dsv3::convert {

// Two checkpoints in one catalog: B's tensors stand behind A's. The pairs are by position, too.
struct TwoCheckpoints {
  Catalog catalog;
  std::vector<ScaledWeight> scaled;  // of both, ordered by the weight's position
};

// Positions of a tensor of both, or of one of them.
struct TensorPair {
  std::uint32_t a = Catalog::kNone;
  std::uint32_t b = Catalog::kNone;
  const ScaledWeight* scale_a = nullptr;  // that gives the values; points into TwoCheckpoints
  const ScaledWeight* scale_b = nullptr;
};

// All tensors by name, sorted; codes under a name of their own are paired with the weight that they
// make. A scale that belongs to a weight is left out where the other side
// has that weight with a scale of its own or unquantised, unless the other side has a tensor of the
// scale's name that is none.
std::vector<TensorPair> PairTensors(const TwoCheckpoints& both);

}  // namespace dsv3::convert

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "convert/parallel/slicing.h"

// Boundaries between ranks that fall inside a block of scales. Internal to convert/parallel;
// PlanSlicing is its user.
namespace dsv3::convert {

// An FP8 weight that several ranks divide.
struct ScaledCut {
  std::uint32_t tensor = 0;  // position in the catalog
  TensorPlace place;
  std::uint64_t size = 0;   // of the divided dimension, padding included
  std::uint64_t ways = 1;   // divides size
  std::uint64_t block = 1;  // of the scales, along that dimension
  bool spanned = false;     // one scale serves all of the dimension

  std::uint64_t part() const { return size / ways; }
};

// The result of --on-misaligned.
struct MisalignedResult {
  std::unordered_set<std::string_view> units;  // that hold a misaligned weight
  std::optional<quant::BlockShape> recut_block;
};

// Judges all cuts, given in the catalog's order. Throws Error (kUsage) where a cut is misaligned
// and the options say error, or say subblock for scales that are no plain blocks of the config.
MisalignedResult JudgeMisaligned(const Catalog& catalog, const ModelConfig& config,
                                 const std::vector<ScaledWeight>& scaled, const Topology& topology,
                                 const SlicingOptions& options, const std::vector<ScaledCut>& cuts);

}  // namespace dsv3::convert

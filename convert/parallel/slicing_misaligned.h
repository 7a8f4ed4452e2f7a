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

// A quantised weight that several ranks divide.
struct ScaledCut {
  std::uint32_t tensor = 0;  // position in the catalog
  TensorPlace place;
  std::uint64_t size = 0;               // of the divided dimension in values, padding included
  std::uint64_t ways = 1;               // divides size
  std::uint64_t block = 1;              // of values that cannot be parted, along that dimension
  std::string_view shared = "a scale";  // what the values of a block share
  bool coded = false;                   // not FP8: it can neither be recut nor become BF16
  bool spanned = false;                 // one scale serves all of the dimension

  std::uint64_t part() const { return size / ways; }
};

// The result of --on-misaligned.
struct MisalignedResult {
  std::unordered_set<std::string_view> units;  // that hold a misaligned weight
  std::optional<quant::BlockShape> recut_block;
};

// Judges all cuts, given in the catalog's order. Throws Error (kUsage) where a cut is misaligned
// and the options say error, or say subblock for scales that are no plain blocks of the config, or
// subblock or bf16 for codes that are not FP8.
MisalignedResult JudgeMisaligned(const Catalog& catalog, const ModelConfig& config,
                                 const std::vector<ScaledWeight>& scaled, const Topology& topology,
                                 const SlicingOptions& options, const std::vector<ScaledCut>& cuts);

}  // namespace dsv3::convert

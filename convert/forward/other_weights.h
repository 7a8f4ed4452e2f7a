#pragma once

#include <cstdint>
#include <optional>

#include "convert/catalog/box.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/module_rows.h"
#include "convert/model/model_config.h"

// What a model's weights are compared with; an internal part of forward.h.
namespace dsv3::convert {

// Which weights: those of the other model, those that a rank of it has, or those that a rank of
// this model has.
struct OtherSide {
  std::int64_t rank = -1;  // -1: none
  bool of_a = false;

  // clang-tidy 14 takes the 0 of a default <=> for a pointer.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const OtherSide&, const OtherSide&) = default;
};

struct OtherWeights {
  ModelWeights& weights;
  const RowMap& map;  // from this model to them
  const ModelConfig& config;
  OtherSide side;

  bool is_rank() const { return side.rank >= 0; }
  // `values` are rows of a tensor of `weights`. Sets what its rank does not hold of them to what
  // `mine` has.
  void KeepOwn(const WeightRows& rows, const WeightPanel& mine, float* values) const;
};

// Where the elements of a tensor that are in `box` are in `rows`, of which the first row is 0;
// empty where there are none.
Box BoxIn(const WeightRows& rows, const Box& box);

// The same as KeepOwn for any rank.
void KeepBoxesOf(const Ranks& ranks, std::uint32_t rank, const WeightRows& rows,
                 const WeightPanel& mine, float* values);

}  // namespace dsv3::convert

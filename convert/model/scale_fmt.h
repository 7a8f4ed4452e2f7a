#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "formats/finding.h"

// Whether scales agree with the config's scale_fmt. Weights are multiplied by the stored values;
// scale_fmt is a claim about these values, and several releases get it wrong.
namespace dsv3::convert {

// The significands of one scale tensor's values. Not thread-safe; parts of a tensor may be counted
// apart and added.
class ScaleSignificands {
 public:
  void Add(std::span<const float> scales);
  void Add(const ScaleSignificands& other);

  std::uint64_t scales() const { return powers_of_two_ + others_; }
  // Positive powers of two, subnormal ones included. Scales that are not positive and finite are
  // not counted at all.
  std::uint64_t powers_of_two() const { return powers_of_two_; }
  // Those of 2^-127, which is the code 0 of E8M0.
  std::uint64_t least_e8m0() const { return least_e8m0_; }
  // Whether there is any scale, and all of them are powers of two.
  bool AllPowersOfTwo() const { return powers_of_two_ != 0 && others_ == 0; }
  // Whether a scale other than 1 is among the powers of two; all-zero blocks have 1 in any format.
  bool AnyButOne() const { return any_but_one_; }
  // The significand in [1, 2) that all scales share; nothing when they differ.
  std::optional<float> Shared() const;

 private:
  std::uint64_t powers_of_two_ = 0;
  std::uint64_t others_ = 0;
  std::uint64_t least_e8m0_ = 0;
  bool any_but_one_ = false;
  bool differ_ = false;
  std::uint32_t significand_ = 0;  // 23 bits without the hidden one, of the first scale
};

// The warning ("scale-fmt-contradiction", file config.json) where scale_fmt and the scales
// contradict each other: the config says ue8m0 and some F32 or BF16 scales are not powers of two,
// or all scales are powers of two and the config says nothing (E8M0 tensors say it themselves) or
// something else. The message distinguishes DeepSeek-V3.1's own exception (every o_proj's scales
// share a significand of 1.32288) from others. `significands` are those of the pairs' scales, in
// their order; pairs that were not read have empty ones.
std::optional<formats::Finding> CheckScaleFmt(const Catalog& catalog, const ModelConfig& config,
                                              std::span<const ScaledWeight> pairs,
                                              std::span<const ScaleSignificands> significands);

// The warning ("zero-scales") where E8M0 scales are 2^-127: tools write it for blocks of zeros
// alone, and what was never written of a file reads as such scales, too. Arguments as above.
std::optional<formats::Finding> CheckScalesOfZeros(const Catalog& catalog,
                                                   std::span<const ScaledWeight> pairs,
                                                   std::span<const ScaleSignificands> significands);

}  // namespace dsv3::convert

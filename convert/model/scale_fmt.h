#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "formats/finding.h"

// Whether scales are what the config's scale_fmt says of them. The values are what weights are
// multiplied by; scale_fmt is a claim about them, and several releases get it wrong.
namespace dsv3::convert {

// What the values of one scale tensor tell. Not thread-safe; parts may be gathered apart and added.
class ScaleSignificands {
 public:
  void Add(std::span<const float> scales);
  void Add(const ScaleSignificands& other);

  std::uint64_t scales() const { return powers_of_two_ + others_; }
  // Positive powers of two, subnormal ones included. Scales that are no positive finite number are
  // counted nowhere.
  std::uint64_t powers_of_two() const { return powers_of_two_; }
  // Whether there is any scale, and all of them are powers of two.
  bool AllPowersOfTwo() const { return powers_of_two_ != 0 && others_ == 0; }
  // Whether a scale other than 1 is among the powers of two; all-zero blocks have 1 in any format.
  bool AnyButOne() const { return any_but_one_; }
  // The significand in [1, 2) that all scales share; nothing when they differ.
  std::optional<float> Shared() const;

 private:
  std::uint64_t powers_of_two_ = 0;
  std::uint64_t others_ = 0;
  bool any_but_one_ = false;
  bool differ_ = false;
  std::uint32_t significand_ = 0;  // 23 bits without the hidden one, of the first scale
};

// The warning ("scale-fmt-contradiction", file config.json) that names scale_fmt where the config
// says ue8m0 and some F32 or BF16 scales are no powers of two, telling DeepSeek-V3.1's own
// exception (every o_proj's scales share a significand of 1.32288) from others, or where all scales
// are powers of two and the config says nothing (E8M0 tensors say it themselves) or something else.
// `significands` are those of the pairs' scales, in their order; pairs that were not read have
// empty ones.
std::optional<formats::Finding> CheckScaleFmt(const Catalog& catalog, const ModelConfig& config,
                                              std::span<const ScaledWeight> pairs,
                                              std::span<const ScaleSignificands> significands);

}  // namespace dsv3::convert

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/model/scaled_weights.h"

// Blocks of FP8 codes that are all zero though their scale says that they had values.
namespace dsv3::convert {

// What was found, when all codes were added.
struct ZeroBlockCount {
  std::uint64_t blocks = 0;  // all zero under a scale that IsScaleOfZeros is false for
  std::uint64_t first = 0;   // the position of the first one's scale in its tensor
  float first_scale = 0;
};

// What is known of the blocks of one weight.
class ZeroBlocks {
 public:
  // Nothing is known of [first, first + count), positions in the scale tensor.
  ZeroBlocks() = default;
  ZeroBlocks(std::uint64_t first, std::uint64_t count);

  // Scales as floats, with the position of the first in the scale tensor.
  struct Scales {
    std::uint64_t first = 0;
    std::span<const float> values;
  };
  // The codes of consecutive elements of `weight` from `first` on; `scales` covers them.
  void Add(const ScaledWeight& weight, std::uint64_t first, std::span<const std::byte> codes,
           const Scales& scales);
  // Several pieces may add codes to one block. The piece's first block is among these or the next
  // one behind them.
  void Add(const ZeroBlocks& piece);

  bool empty() const { return blocks_.empty(); }
  ZeroBlockCount Count() const;

 private:
  void AddRows(const ScaledWeight& weight, std::uint64_t column, std::uint64_t first_scale,
               std::span<const std::byte> codes, std::span<const float> scales);
  static bool AddRow(std::uint64_t column, std::uint64_t block_cols,
                     std::span<const std::byte> codes, std::span<const float> scales,
                     std::span<float> blocks);

  // The scale of a block whose codes so far are all zero; 0 where it may be one of zeros or no code
  // was added, NaN where a code is another.
  std::vector<float> blocks_;
  std::uint64_t first_ = 0;
};

}  // namespace dsv3::convert

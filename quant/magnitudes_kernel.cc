// The vector kernels that find the largest magnitudes of blocks, compiled once for each instruction
// set.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/quantize_tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/magnitudes_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

void Magnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const bool wide = tile.format == FloatFormat::kF32;
  const std::size_t bytes = FloatBytes(tile.format);
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const std::byte* const values = tile.values + row * tile.stride * bytes;
    ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
      for (std::size_t i = offset; i < offset + size; ++i) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, values + i * bytes, bytes);
        magnitudes[block] = std::max(magnitudes[block], bits & (wide ? 0x7FFF'FFFFU : 0x7FFFU));
      }
    });
  }
}

#else

// The largest magnitude of `rows` rows of a block.
template <typename Bits>
HWY_INLINE Bits LargestOf(const Bits* HWY_RESTRICT from, std::uint64_t rows, std::uint64_t stride,
                          std::size_t size) {
  const hn::ScalableTag<Bits> d;
  using V = hn::Vec<decltype(d)>;
  constexpr auto kMask = static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  const V mask = hn::Set(d, kMask);
  const std::size_t lanes = hn::Lanes(d);
  V first = hn::Zero(d);
  V second = first;
  for (std::uint64_t row = 0; row < rows; ++row, from += stride) {
    std::size_t i = 0;
    for (; i + 2 * lanes <= size; i += 2 * lanes) {
      first = hn::Max(first, hn::And(hn::LoadU(d, from + i), mask));
      second = hn::Max(second, hn::And(hn::LoadU(d, from + i + lanes), mask));
    }
    if (i + lanes <= size) {
      first = hn::Max(first, hn::And(hn::LoadU(d, from + i), mask));
      i += lanes;
    }
    if (i < size) {
      HWY_ALIGN Bits part[hn::MaxLanes(d)] = {};
      std::memcpy(part, from + i, (size - i) * sizeof(Bits));
      second = hn::Max(second, hn::And(hn::Load(d, part), mask));
    }
  }
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(first, second)));
}

// Blocks whose largest magnitudes are found together.
constexpr std::size_t kTogether = 8;

// The largest magnitude of kCols 16-bit numbers in each 16 bytes of a vector.
template <std::size_t kCols>
HWY_INLINE hn::Vec<hn::CappedTag<std::uint16_t, kCols>> LargestOfBlock(
    const std::uint16_t* HWY_RESTRICT from) {
  const hn::CappedTag<std::uint16_t, kCols> d;
  const auto mask = hn::Set(d, 0x7FFF);
  auto largest = hn::And(hn::LoadU(d, from), mask);
  for (std::size_t i = hn::Lanes(d); i < kCols; i += hn::Lanes(d)) {
    largest = hn::Max(largest, hn::And(hn::LoadU(d, from + i), mask));
  }
  return largest;
}

// The larger of neighbours, those of `a` and of `b` by turns: of lanes as wide as those of `wide`.
template <class D, class W, class V = hn::Vec<D>>
HWY_INLINE V LargerOfNeighbours(D d, W wide, V a, V b) {
  const auto a_wide = hn::BitCast(wide, a);
  const auto b_wide = hn::BitCast(wide, b);
  return hn::Max(hn::BitCast(d, hn::InterleaveLower(wide, a_wide, b_wide)),
                 hn::BitCast(d, hn::InterleaveUpper(wide, a_wide, b_wide)));
}

// Raises the magnitudes of kTogether blocks of kCols numbers side by side. A tree of
// interleavings leaves one lane for each block in every 16 bytes.
template <std::size_t kCols>
HWY_INLINE void LargestOfNarrow(const std::uint16_t* HWY_RESTRICT from,
                                std::uint32_t* HWY_RESTRICT magnitudes) {
  const hn::CappedTag<std::uint16_t, kCols> d;
  const hn::Repartition<std::uint32_t, decltype(d)> d32;
  const hn::Repartition<std::uint64_t, decltype(d)> d64;
  const auto pair = [&](std::size_t i) HWY_ATTR {
    return LargerOfNeighbours(d, d, LargestOfBlock<kCols>(from + i * kCols),
                              LargestOfBlock<kCols>(from + (i + 1) * kCols));
  };
  const auto first = LargerOfNeighbours(d, d32, pair(0), pair(2));
  const auto second = LargerOfNeighbours(d, d32, pair(4), pair(6));
  HWY_ALIGN std::uint16_t each[kCols];
  hn::Store(LargerOfNeighbours(d, d64, first, second), d, each);
  const hn::FixedTag<std::uint16_t, kTogether> d8;
  auto largest = hn::Load(d8, each);
  for (std::size_t i = kTogether; i < hn::Lanes(d); i += kTogether) {
    largest = hn::Max(largest, hn::Load(d8, each + i));
  }
  hn::Store(largest, d8, each);
  for (std::size_t i = 0; i < kTogether; ++i) {
    magnitudes[i] = std::max<std::uint32_t>(magnitudes[i], each[i]);
  }
}

// Of a tile of one row, as many blocks as go by kTogether; returns how many.
template <std::size_t kCols>
std::size_t NarrowMagnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const auto* const values = reinterpret_cast<const std::uint16_t*>(tile.values);
  const auto blocks = static_cast<std::size_t>(tile.width / kCols / kTogether * kTogether);
  for (std::size_t i = 0; i < blocks; i += kTogether) {
    LargestOfNarrow<kCols>(values + i * kCols, magnitudes + i);
  }
  return blocks;
}

// Blocks of one row with few columns, the first one whole.
std::size_t NarrowBlocks(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const bool narrow =
      tile.rows == 1 && tile.format != FloatFormat::kF32 && tile.column % tile.block_cols == 0;
  if (narrow && tile.block_cols == 16) return NarrowMagnitudes<16>(tile, magnitudes);
  if (narrow && tile.block_cols == 32) return NarrowMagnitudes<32>(tile, magnitudes);
  return 0;
}

template <typename Bits>
void MagnitudesAs(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const auto* const values = reinterpret_cast<const Bits*>(tile.values);
  ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
    const Bits largest = LargestOf<Bits>(values + offset, tile.rows, tile.stride, size);
    magnitudes[block] = std::max<std::uint32_t>(magnitudes[block], largest);
  });
}

void Magnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const std::size_t done = NarrowBlocks(tile, magnitudes);
  const std::uint64_t offset = done * tile.block_cols;
  if (offset == tile.width) return;
  const QuantizeTile rest = SubTile(tile, 0, tile.rows, offset, tile.width - offset);
  if (tile.format == FloatFormat::kF32) {
    MagnitudesAs<std::uint32_t>(rest, magnitudes + done);
  } else {
    MagnitudesAs<std::uint16_t>(rest, magnitudes + done);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(Magnitudes);

void MaxMagnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  HWY_DYNAMIC_DISPATCH(Magnitudes)(tile, magnitudes);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

#include "quant/quantize_tile.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "quant/codec.h"

namespace dsv3::quant::internal {
namespace {

// The largest finite magnitude of some columns of a tile.
std::uint32_t FiniteAmaxBits(const QuantizeTile& tile, std::size_t offset, std::size_t size) {
  std::uint32_t largest = 0;
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    for (std::size_t i = offset; i < offset + size; ++i) {
      const float value = ValueAt(tile.format, tile.values, row * tile.stride + i);
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(value) & 0x7FFF'FFFFU;
      if (IsFiniteBits(bits)) largest = std::max(largest, bits);
    }
  }
  return largest;
}

}  // namespace

std::uint32_t FloatBits(FloatFormat format, std::uint32_t magnitude) {
  switch (format) {
    case FloatFormat::kBF16:
      return magnitude << 16;
    case FloatFormat::kF16:
      return std::bit_cast<std::uint32_t>(DecodeF16(static_cast<std::uint16_t>(magnitude)));
    case FloatFormat::kF32:
      break;
  }
  return magnitude;
}

void EncodeRunScalar(const BlockRule& rule, FloatFormat format, const std::byte* values,
                     std::size_t size, std::uint8_t* codes, Quality& quality) {
  for (std::size_t i = 0; i < size; ++i) {
    codes[i] = QuantizeValue(rule, ValueAt(format, values, i), quality);
  }
}

bool TakeTile(const QuantizeTile& tile, BlockState* blocks) {
  std::array<std::uint32_t, kMaxTileBlocks> magnitudes;
  std::fill_n(magnitudes.begin(), tile.blocks(), 0U);
  MaxMagnitudes(tile, magnitudes.data());
  bool all_finite = true;
  ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
    BlockState& state = blocks[block];
    std::uint32_t bits = FloatBits(tile.format, magnitudes[block]);
    if (!IsFiniteBits(bits)) {
      all_finite = false;
      state.nonfinite = true;
      bits = FiniteAmaxBits(tile, offset, size);
    }
    state.amax_bits = std::max(state.amax_bits, bits);
  });
  return all_finite;
}

std::optional<NonfiniteValue> FindNonfinite(const PanelPart& part) {
  const std::uint64_t size = Elements(part);
  for (std::uint64_t i = 0; i < size; ++i) {
    const float value = ValueAt(part.format, part.values.data(), i);
    if (IsFiniteBits(std::bit_cast<std::uint32_t>(value))) continue;
    return NonfiniteValue{(part.first + i) / part.cols, (part.first + i) % part.cols, value};
  }
  return std::nullopt;
}

BlockRule RuleOf(const QuantizeFormat& format, FloatFormat values, const BlockState& state) {
  BlockRule rule = MakeRule(format, values, std::bit_cast<float>(state.amax_bits));
  rule.regular = rule.regular && !state.nonfinite;
  return rule;
}

}  // namespace dsv3::quant::internal

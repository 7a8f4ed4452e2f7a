// Panels in two passes, and panels that have an original.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "quant/default_float_environment.h"
#include "quant/dequantize.h"
#include "quant/quantize.h"
#include "quant/quantize_rule.h"
#include "quant/quantize_tile.h"

namespace dsv3::quant {
namespace {

using internal::BlockRule;
using internal::ForEachBlock;
using internal::ForEachTile;
using internal::kMaxTileBlocks;
using internal::QuantizeTile;

// Originals are dequantised so many elements at a time, which stay in the first-level cache.
constexpr std::uint64_t kCompareElements = 4096;

// Marks the blocks of elements [begin, begin + size) of the part in which some bits differ.
void MarkEdited(const PanelPart& part, std::uint64_t block_cols, std::uint64_t begin,
                std::span<const std::uint16_t> original, std::span<BlockState> blocks) {
  const std::byte* const values = part.values.data() + begin * sizeof(std::uint16_t);
  if (std::memcmp(values, original.data(), original.size_bytes()) == 0) return;
  for (std::size_t i = 0; i < original.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, values + i * sizeof(bits), sizeof(bits));
    if (bits == original[i]) continue;
    blocks[(part.first + begin + i) % part.cols / block_cols].edited = true;
  }
}

// Copies the codes of a block that was not edited, and adds its values, which have no errors.
void KeepBlock(const QuantizeTile& tile, bool nonfinite, const std::uint8_t* original,
               std::uint8_t* codes, Quality& quality) {
  const std::size_t bytes = FloatBytes(tile.format);
  const auto width = static_cast<std::size_t>(tile.width);
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const auto at = static_cast<std::size_t>(row * tile.stride);
    std::memcpy(codes + at, original + at, width);
    const std::byte* const values = tile.values + at * bytes;
    if (!nonfinite) {
      quality.sum_squares += internal::SumOfSquares(tile.format, values, width);
      continue;
    }
    for (std::size_t i = 0; i < width; ++i) {
      const float value = internal::ValueAt(tile.format, values, i);
      const bool finite = internal::IsFiniteBits(std::bit_cast<std::uint32_t>(value));
      if (finite) quality.sum_squares += static_cast<double>(value) * static_cast<double>(value);
      if (!finite) ++quality.nonfinite;
    }
  }
  quality.elements += tile.rows * tile.width;
}

std::uint64_t CountChanged(const QuantizeTile& tile, const std::uint8_t* original,
                           const std::uint8_t* codes) {
  std::uint64_t changed = 0;
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const auto begin = static_cast<std::size_t>(row * tile.stride);
    const auto end = static_cast<std::size_t>(begin + tile.width);
    for (std::size_t i = begin; i < end; ++i) changed += codes[i] != original[i] ? 1U : 0U;
  }
  return changed;
}

// The first NaN or infinity of the part in a block whose codes are not copied.
std::optional<NonfiniteValue> FindUnexcused(const PanelPart& part, std::uint64_t block_cols,
                                            std::span<const BlockState> blocks, bool has_original) {
  PanelPart rest = part;
  while (const std::optional<NonfiniteValue> found = internal::FindNonfinite(rest)) {
    if (!has_original || blocks[found->col / block_cols].edited) return found;
    const std::uint64_t behind = found->row * part.cols + found->col + 1;
    rest.values = part.values.subspan((behind - part.first) * FloatBytes(part.format));
    rest.first = behind;
  }
  return std::nullopt;
}

// Blocks are counted with the part that has their first element.
void CountBlocks(const PanelPart& part, std::uint64_t block_cols,
                 std::span<const BlockState> blocks, bool has_original, Quality& quality) {
  const std::uint64_t end = part.first + internal::Elements(part);
  std::uint64_t first_element = 0;
  for (const BlockState& block : blocks) {
    if (first_element >= part.first && first_element < end) {
      ++quality.blocks;
      if (has_original && !block.edited) ++quality.kept_blocks;
    }
    first_element += block_cols;
  }
}

}  // namespace

std::optional<NonfiniteValue> UpdateAmax(std::uint64_t block_cols, const PanelPart& part,
                                         Nonfinite nonfinite, std::span<BlockState> blocks) {
  const internal::DefaultFloatEnvironment environment;
  bool all_finite = true;
  ForEachTile(part, block_cols, [&](const QuantizeTile& tile, std::uint64_t) {
    all_finite = internal::TakeTile(tile, blocks.data() + tile.first_block()) && all_finite;
  });
  if (all_finite || nonfinite == Nonfinite::kSaturate) return std::nullopt;
  return internal::FindNonfinite(part);
}

void UpdateAmaxLike(std::uint64_t block_cols, const PanelPart& part, const OriginalPart& original,
                    std::span<BlockState> blocks) {
  UpdateAmax(block_cols, part, Nonfinite::kSaturate, blocks);
  std::vector<float> scales;
  DecodeScales(original.scale_format, original.scales, scales);
  std::array<std::uint16_t, kCompareElements> dequantised;
  DequantizeCounts counts;
  for (std::size_t done = 0; done < original.codes.size();) {
    const std::size_t size = std::min(dequantised.size(), original.codes.size() - done);
    DequantizeSpan span;
    span.codes = original.codes.subspan(done, size);
    span.first = part.first + done;
    span.cols = part.cols;
    // All rows of a panel have the same scales.
    span.block = {std::numeric_limits<std::uint64_t>::max(), block_cols};
    span.scales = scales;
    DequantizeE4M3ToBF16(span, dequantised.data(), counts);
    MarkEdited(part, block_cols, done, std::span(dequantised).first(size), blocks);
    done += size;
  }
}

void JoinStates(std::span<const BlockState> others, std::span<BlockState> blocks) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    blocks[i].amax_bits = std::max(blocks[i].amax_bits, others[i].amax_bits);
    blocks[i].nonfinite = blocks[i].nonfinite || others[i].nonfinite;
    blocks[i].edited = blocks[i].edited || others[i].edited;
  }
}

void StoreScales(const QuantizeFormat& format, FloatFormat values,
                 std::span<const BlockState> blocks, std::span<std::byte> scales) {
  const internal::DefaultFloatEnvironment environment;
  const ScaleFormat stored = StoredScaleFormat(format, values);
  std::byte* to = scales.data();
  for (const BlockState& block : blocks) {
    internal::StoreScale(stored, internal::RuleOf(format, values, block).scale, to);
    to += ScaleBytes(stored);
  }
}

void StoreScalesLike(const QuantizeFormat& format, FloatFormat values,
                     std::span<const BlockState> blocks, std::span<const std::byte> original_scales,
                     std::span<std::byte> scales) {
  StoreScales(format, values, blocks, scales);
  const std::size_t bytes = ScaleBytes(StoredScaleFormat(format, values));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].edited) continue;
    std::copy_n(original_scales.data() + i * bytes, bytes, scales.data() + i * bytes);
  }
}

std::optional<NonfiniteValue> QuantizePart(const QuantizeFormat& format, const PanelPart& part,
                                           std::span<const BlockState> blocks, Nonfinite nonfinite,
                                           const OriginalPart* original,
                                           std::span<std::uint8_t> codes, Quality& quality) {
  const internal::DefaultFloatEnvironment environment;
  const std::uint64_t block_cols = format.block.cols;
  const bool stream = internal::Elements(part) >= internal::kStreamElements;
  const bool any_nonfinite =
      std::any_of(blocks.begin(), blocks.end(), [](const BlockState& b) { return b.nonfinite; });
  if (any_nonfinite && nonfinite == Nonfinite::kReport) {
    const std::optional<NonfiniteValue> found =
        FindUnexcused(part, block_cols, blocks, original != nullptr);
    if (found) return found;
  }
  ForEachTile(part, block_cols, [&](const QuantizeTile& tile, std::uint64_t first) {
    const std::span<const BlockState> states = blocks.subspan(tile.first_block(), tile.blocks());
    std::array<BlockRule, kMaxTileBlocks> rules;
    for (std::size_t i = 0; i < states.size(); ++i) {
      rules[i] = internal::RuleOf(format, tile.format, states[i]);
    }
    if (original == nullptr) {
      internal::EncodeTile(tile, rules.data(), stream, codes.data() + first, quality);
      return;
    }
    ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
      const QuantizeTile columns = internal::SubTile(tile, 0, tile.rows, offset, size);
      std::uint8_t* const to = codes.data() + first + offset;
      const std::uint8_t* const from = original->codes.data() + first + offset;
      if (!states[block].edited) {
        KeepBlock(columns, states[block].nonfinite, from, to, quality);
        return;
      }
      internal::EncodeTile(columns, &rules[block], false, to, quality);
      quality.changed_codes += CountChanged(columns, from, to);
    });
  });
  CountBlocks(part, block_cols, blocks, original != nullptr, quality);
  return std::nullopt;
}

std::optional<NonfiniteValue> QuantizeLike(const QuantizeFormat& format, const QuantizePanel& panel,
                                           std::span<const std::uint8_t> original_codes,
                                           std::span<const std::byte> original_scales,
                                           Nonfinite nonfinite, std::span<std::uint8_t> codes,
                                           std::span<std::byte> scales, Quality& quality) {
  const PanelPart part{panel.format, panel.values, 0, panel.cols};
  const OriginalPart original{original_codes, original_scales,
                              StoredScaleFormat(format, panel.format)};
  std::vector<BlockState> blocks(internal::BlocksAcross(panel.cols, format.block.cols));
  UpdateAmaxLike(format.block.cols, part, original, blocks);
  StoreScalesLike(format, panel.format, blocks, original_scales, scales);
  return QuantizePart(format, part, blocks, nonfinite, &original, codes, quality);
}

}  // namespace dsv3::quant

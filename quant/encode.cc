#include "quant/encode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "quant/default_float_environment.h"
#include "quant/encode_piece.h"
#include "quant/quantize_tile.h"
#include "quant/rounding.h"
#include "quant/stream_stores.h"

namespace dsv3::quant {
namespace {

using internal::QuantizeTile;

constexpr std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0); }

// FP8 in blocks: quantize.h's panels are those of one row of blocks.
std::optional<NonfiniteValue> EncodeFp8(const EncodeRule& rule, const EncodePanel& panel,
                                        std::span<std::uint8_t> codes, std::span<std::byte> scales,
                                        Quality& quality) {
  const std::uint64_t row_bytes = panel.cols * FloatBytes(panel.format);
  const std::uint64_t scale_row =
      CeilDiv(panel.cols, rule.block.cols) * ScaleBytes(StoredScaleOf(rule, panel.format));
  QuantizeFormat format = *rule.fp8;
  format.block = rule.block;
  for (std::uint64_t row = 0; row < panel.rows; row += rule.block.rows) {
    QuantizePanel part;
    part.format = panel.format;
    part.rows = std::min(rule.block.rows, panel.rows - row);
    part.cols = panel.cols;
    part.values = panel.values.subspan(row * row_bytes, part.rows * row_bytes);
    auto found = Quantize(format, part, Nonfinite::kReport,
                          codes.subspan(row * panel.cols, part.rows * panel.cols),
                          scales.subspan(row / rule.block.rows * scale_row, scale_row), quality);
    if (!found) continue;
    found->row += row;
    return found;
  }
  return std::nullopt;
}

// No error of a value within the codes exceeds so many scales. E4M3 codes of large quotients lie 32
// apart; other codes are at most 2 apart, and the largest values lie up to 1 beyond the last.
constexpr float kMostE4M3Error = 17;
constexpr float kMostError = 1.01F;

// Bits of infinity without a sign.
std::uint32_t InfinityBits(FloatFormat format) {
  if (format == FloatFormat::kF32) return internal::kFloatInfinity;
  return format == FloatFormat::kF16 ? 0x7C00 : 0x7F80;
}

// The codes and scales of a panel, tile by tile: first the blocks' largest magnitudes, then the
// scales, then the codes.
class PanelEncoder {
 public:
  PanelEncoder(const EncodeRule& rule, const EncodePanel& panel, Quality& quality)
      : rule_(rule),
        panel_(panel),
        quality_(quality),
        block_(BlockOf(rule, panel.cols)),
        scale_bytes_(ScaleBytes(StoredScaleOf(rule, panel.format))),
        value_bytes_(FloatBytes(panel.format)),
        codes_of_byte_(8 / CodeBits(rule.codes)),
        stream_(panel.rows * panel.cols >= internal::kStreamElements) {}

  std::optional<NonfiniteValue> Run(std::span<std::uint8_t> codes, std::span<std::byte> scales) {
    const std::size_t scale_row = CeilDiv(panel_.cols, block_.cols) * scale_bytes_;
    bool all_finite = true;
    for (std::uint64_t row = 0; row < panel_.rows && all_finite; row += block_.rows) {
      const std::uint64_t first = row * panel_.cols;
      const std::uint64_t size = std::min(block_.rows, panel_.rows - row) * panel_.cols;
      const PanelPart part{panel_.format,
                           panel_.values.subspan(first * value_bytes_, size * value_bytes_), 0,
                           panel_.cols};
      std::byte* const row_scales = scales.data() + row / block_.rows * scale_row;
      internal::ForEachTile(part, block_.cols, [&](const QuantizeTile& tile, std::uint64_t at) {
        all_finite = all_finite && EncodeTile(tile, row_scales + tile.first_block() * scale_bytes_,
                                              codes.data() + (first + at) / codes_of_byte_);
      });
    }
    if (stream_) internal::FinishStreams();
    if (!all_finite) return internal::FindNonfinite({panel_.format, panel_.values, 0, panel_.cols});
    quality_.elements += panel_.rows * panel_.cols;
    return std::nullopt;
  }

 private:
  // Returns whether all values are finite.
  bool EncodeTile(const QuantizeTile& tile, std::byte* scales, std::uint8_t* codes) {
    const std::size_t blocks = tile.blocks();
    if (!FindAmax(tile)) return false;
    MakeScales(blocks, scales);
    const float most = std::min(rule_.largest, -rule_.smallest);
    const internal::BlockScales made = internal::TakeReciprocals(amax_.data(), divisors_.data(),
                                                                 blocks, most, reciprocals_.data());
    const float most_error = rule_.codes == CodeFormat::kE4M3 ? kMostE4M3Error : kMostError;
    largest_ = static_cast<double>(most_error * made.largest) > quality_.max_abs_error;
    quality_.blocks += blocks;
    const std::size_t row_bytes = tile.stride / codes_of_byte_;
    const std::size_t width = tile.width / codes_of_byte_;
    if (stream_ && staged_.size() < 2 * width) staged_.resize(2 * width);
    for (std::uint64_t row = 0; row < tile.rows; ++row) {
      const QuantizeTile one = internal::SubTile(tile, row, 1, 0, tile.width);
      std::uint8_t* const to = codes + row * row_bytes;
      if (!stream_) {
        EncodeRow(one, made.all_regular, to);
        continue;
      }
      // A row is stored when the next one has been made, because reading bytes that were just
      // written stalls.
      EncodeRow(one, made.all_regular, staged_.data() + row % 2 * width);
      if (row != 0) Stream(row - 1, width, to - row_bytes);
      if (row + 1 == tile.rows) Stream(row, width, to);
    }
    return true;
  }

  void Stream(std::uint64_t row, std::size_t width, std::uint8_t* to) const {
    internal::StreamBytes(staged_.data() + row % 2 * width, width, to);
  }

  bool FindAmax(const QuantizeTile& tile) {
    std::array<std::uint32_t, internal::kMaxTileBlocks> magnitudes;
    const std::size_t blocks = tile.blocks();
    std::fill_n(magnitudes.begin(), blocks, 0U);
    internal::MaxMagnitudes(tile, magnitudes.data());
    std::uint32_t most = 0;
    for (std::size_t i = 0; i < blocks; ++i) most = std::max(most, magnitudes[i]);
    if (most >= InfinityBits(panel_.format)) return false;
    if (panel_.format == FloatFormat::kBF16) {
      for (std::size_t i = 0; i < blocks; ++i) amax_[i] = std::bit_cast<float>(magnitudes[i] << 16);
    } else {
      for (std::size_t i = 0; i < blocks; ++i) {
        amax_[i] = std::bit_cast<float>(internal::FloatBits(panel_.format, magnitudes[i]));
      }
    }
    return true;
  }

  void MakeScales(std::size_t blocks, std::byte* stored) {
    if (panel_.format == FloatFormat::kBF16) {
      rule_.scales_of({amax_.data(), blocks, panel_.tensor_scale, stored, divisors_.data()});
      return;
    }
    for (std::size_t i = 0; i < blocks; ++i) {
      const BlockScale scale = rule_.scale_of(amax_[i], panel_.format, panel_.tensor_scale);
      std::memcpy(stored + i * scale_bytes_, &scale.stored, scale_bytes_);
      divisors_[i] = scale.divisor;
    }
  }

  // The codes of a tile of one row: runs of regular blocks by the kernel, the others by meaning.
  void EncodeRow(const QuantizeTile& tile, bool all_regular, std::uint8_t* codes) {
    const std::size_t blocks = tile.blocks();
    for (std::size_t first = 0; first < blocks;) {
      std::size_t end = all_regular ? blocks : first + 1;
      const bool regular = reciprocals_[first] != 0;
      while (end < blocks && regular && reciprocals_[end] != 0) ++end;
      const std::size_t begin = first * block_.cols;
      const std::size_t size = std::min<std::size_t>(tile.width, end * block_.cols) - begin;
      const std::byte* const values = tile.values + begin * value_bytes_;
      std::uint8_t* const to = codes + begin / codes_of_byte_;
      if (regular) {
        rule_.encode_run({panel_.format, values, size, tile.ahead, block_.cols,
                          divisors_.data() + first, reciprocals_.data() + first, largest_},
                         to, quality_);
      } else {
        internal::EncodeByMeaning(rule_, panel_.format, {values, size * value_bytes_},
                                  divisors_[first], divisors_[first], to, quality_);
      }
      first = end;
    }
  }

  const EncodeRule& rule_;
  const EncodePanel& panel_;
  Quality& quality_;
  const BlockShape block_;
  const std::size_t scale_bytes_;
  const std::size_t value_bytes_;
  const std::size_t codes_of_byte_;
  const bool stream_;                 // past the caches
  std::vector<std::uint8_t> staged_;  // codes of two rows of a tile
  // Of a tile's blocks.
  internal::BlockFloats amax_ = {};
  internal::BlockFloats divisors_ = {};
  internal::BlockFloats reciprocals_ = {};
  bool largest_ = true;  // whether an error may be the largest so far
};

}  // namespace

BlockShape BlockOf(const EncodeRule& rule, std::uint64_t cols) {
  BlockShape block = rule.block;
  if (block.cols == 0) block.cols = std::max<std::uint64_t>(1, cols);
  return block;
}

ScaleFormat StoredScaleOf(const EncodeRule& rule, FloatFormat own) {
  if (rule.fp8) return StoredScaleFormat(*rule.fp8, own);
  if (rule.scale) return *rule.scale;
  if (own == FloatFormat::kF32) return ScaleFormat::kF32;
  return own == FloatFormat::kF16 ? ScaleFormat::kF16 : ScaleFormat::kBF16;
}

std::optional<NonfiniteValue> Encode(const EncodeRule& rule, const EncodePanel& panel,
                                     std::span<std::uint8_t> codes, std::span<std::byte> scales,
                                     Quality& quality) {
  if (rule.fp8) return EncodeFp8(rule, panel, codes, scales, quality);
  const internal::DefaultFloatEnvironment environment;
  return PanelEncoder(rule, panel, quality).Run(codes, scales);
}

}  // namespace dsv3::quant

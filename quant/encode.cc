#include "quant/encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "quant/codec.h"
#include "quant/default_float_environment.h"
#include "quant/encode_piece.h"
#include "quant/rounding.h"
#include "quant/statistics.h"

namespace dsv3::quant {
namespace {

constexpr std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0); }

StoredFloat StoredFloatOf(FloatFormat format) {
  if (format == FloatFormat::kF32) return StoredFloat::kF32;
  return format == FloatFormat::kF16 ? StoredFloat::kF16 : StoredFloat::kBF16;
}

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

// The codes and scales of a panel, row by row.
class PanelEncoder {
 public:
  PanelEncoder(const EncodeRule& rule, const EncodePanel& panel, bool scalar, Quality& quality)
      : rule_(rule),
        panel_(panel),
        scalar_(scalar),
        quality_(quality),
        block_(BlockOf(rule, panel.cols)),
        blocks_(CeilDiv(panel.cols, block_.cols)),
        scale_format_(StoredScaleOf(rule, panel.format)),
        row_bytes_(panel.cols * FloatBytes(panel.format)),
        packed_row_(panel.cols * CodeBits(rule.codes) / 8),
        values_(panel.cols),
        decoded_(panel.cols),
        codes_(CodeBits(rule.codes) == 4 ? panel.cols : 0),
        amax_(blocks_),
        divisors_(blocks_) {}

  std::optional<NonfiniteValue> Run(std::span<std::uint8_t> codes, std::span<std::byte> scales) {
    const std::size_t scale_row = blocks_ * ScaleBytes(scale_format_);
    for (std::uint64_t row = 0; row < panel_.rows; row += block_.rows) {
      const std::uint64_t end = std::min(panel_.rows, row + block_.rows);
      const auto stored = scales.subspan(row / block_.rows * scale_row, scale_row);
      if (auto found = FindAmax(row, end)) return found;
      MakeScales(stored);
      for (std::uint64_t at = row; at < end; ++at) {
        if (block_.rows != 1) Decode(at);
        EncodeOne(codes.subspan(at * packed_row_, packed_row_));
      }
      quality_.blocks += blocks_;
    }
    quality_.elements += panel_.rows * panel_.cols;
    return std::nullopt;
  }

 private:
  void Decode(std::uint64_t row) {
    DecodeFloats(StoredFloatOf(panel_.format), panel_.values.subspan(row * row_bytes_, row_bytes_),
                 values_.data());
  }

  // The largest magnitudes of a row of blocks.
  std::optional<NonfiniteValue> FindAmax(std::uint64_t row, std::uint64_t end) {
    std::fill(amax_.begin(), amax_.end(), 0U);
    for (; row < end; ++row) {
      Decode(row);
      internal::RaiseAmax(values_.data(), panel_.cols, block_.cols, amax_.data());
      const auto nonfinite = [](std::uint32_t bits) { return bits >= internal::kFloatInfinity; };
      if (!std::any_of(amax_.begin(), amax_.end(), nonfinite)) continue;
      for (std::uint64_t col = 0;; ++col) {
        if (!std::isfinite(values_[col])) return NonfiniteValue{row, col, values_[col]};
      }
    }
    return std::nullopt;
  }

  void MakeScales(std::span<std::byte> stored) {
    const std::size_t bytes = ScaleBytes(scale_format_);
    for (std::uint64_t i = 0; i < blocks_; ++i) {
      const BlockScale scale =
          rule_.scale_of(std::bit_cast<float>(amax_[i]), panel_.format, panel_.tensor_scale);
      std::memcpy(stored.data() + i * bytes, &scale.stored, bytes);
      divisors_[i] = scale.divisor;
    }
    // What a reader multiplies the codes by.
    DecodeScales(scale_format_, stored, scales_);
    if (rule_.tensor_scale_of != nullptr) {
      ApplyTensorScale(rule_.tensor_scale_use, panel_.tensor_scale, scales_);
    }
    const float least = std::min(rule_.largest, -rule_.smallest);
    saturated_.clear();
    for (std::uint64_t i = 0; i < blocks_; ++i) {
      if (std::bit_cast<float>(amax_[i]) > least * scales_[i]) saturated_.push_back(i);
    }
  }

  void EncodeOne(std::span<std::uint8_t> packed) {
    std::uint8_t* const codes = codes_.empty() ? packed.data() : codes_.data();
    if (scalar_) {
      for (std::uint64_t col = 0; col < panel_.cols; ++col) {
        codes[col] = rule_.code_of(values_[col], divisors_[col / block_.cols], panel_.format);
      }
    } else {
      rule_.encode_row({values_, block_.cols, divisors_, panel_.format}, codes);
    }
    if (!codes_.empty()) internal::PackHalves(codes, codes_.size(), packed.data());
    DequantizeSpan span;
    span.codes = packed;
    span.cols = panel_.cols;
    span.block = {1, block_.cols};
    span.scales = scales_;
    DequantizeToFloat(rule_.codes, span, decoded_.data());
    internal::AddErrors(values_.data(), decoded_.data(), panel_.cols, quality_);
    for (const std::uint64_t block : saturated_) CountSaturated(block);
  }

  // The values of a row's block that are a step or more beyond the outermost codes.
  void CountSaturated(std::uint64_t block) {
    const float lowest = rule_.smallest * scales_[block];
    const float highest = rule_.largest * scales_[block];
    const std::uint64_t end = std::min(panel_.cols, (block + 1) * block_.cols);
    for (std::uint64_t col = block * block_.cols; col < end; ++col) {
      quality_.saturated += values_[col] < lowest || values_[col] > highest ? 1 : 0;
    }
  }

  const EncodeRule& rule_;
  const EncodePanel& panel_;
  const bool scalar_;
  Quality& quality_;
  const BlockShape block_;
  const std::uint64_t blocks_;  // side by side
  const ScaleFormat scale_format_;
  const std::uint64_t row_bytes_;
  const std::uint64_t packed_row_;
  // Of one row.
  std::vector<float> values_;
  std::vector<float> decoded_;
  std::vector<std::uint8_t> codes_;  // of four bits, before they are packed
  // Of a row of blocks.
  std::vector<std::uint32_t> amax_;
  std::vector<float> divisors_;
  std::vector<float> scales_;
  std::vector<std::uint64_t> saturated_;  // blocks that may hold values beyond the codes
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
  return PanelEncoder(rule, panel, /*scalar=*/false, quality).Run(codes, scales);
}

std::optional<NonfiniteValue> EncodeScalar(const EncodeRule& rule, const EncodePanel& panel,
                                           std::span<std::uint8_t> codes,
                                           std::span<std::byte> scales, Quality& quality) {
  const internal::DefaultFloatEnvironment environment;
  return PanelEncoder(rule, panel, /*scalar=*/true, quality).Run(codes, scales);
}

}  // namespace dsv3::quant

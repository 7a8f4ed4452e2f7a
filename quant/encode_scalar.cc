// The rules of encode.h by their meaning, value by value.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "quant/codes.h"
#include "quant/default_float_environment.h"
#include "quant/encode.h"
#include "quant/encode_piece.h"
#include "quant/quantize_rule.h"

namespace dsv3::quant {
namespace {

constexpr std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0); }

// The codes and scales of a panel, a row of blocks at a time.
class ScalarEncoder {
 public:
  ScalarEncoder(const EncodeRule& rule, const EncodePanel& panel, Quality& quality)
      : rule_(rule),
        panel_(panel),
        quality_(quality),
        block_(BlockOf(rule, panel.cols)),
        blocks_(CeilDiv(panel.cols, block_.cols)),
        scale_format_(StoredScaleOf(rule, panel.format)),
        value_bytes_(FloatBytes(panel.format)) {}

  std::optional<NonfiniteValue> Run(std::span<std::uint8_t> codes, std::span<std::byte> scales) {
    const std::size_t scale_row = blocks_ * ScaleBytes(scale_format_);
    for (std::uint64_t row = 0; row < panel_.rows; row += block_.rows) {
      const std::uint64_t end = std::min(panel_.rows, row + block_.rows);
      if (auto found = FindAmax(row, end)) return found;
      MakeScales(scales.subspan(row / block_.rows * scale_row, scale_row));
      for (std::uint64_t at = row; at < end; ++at) EncodeRow(at, codes.data());
      quality_.blocks += blocks_;
    }
    quality_.elements += panel_.rows * panel_.cols;
    return std::nullopt;
  }

 private:
  float At(std::uint64_t row, std::uint64_t col) const {
    return internal::ValueAt(panel_.format, panel_.values.data(), row * panel_.cols + col);
  }

  // The largest magnitudes of a row of blocks.
  std::optional<NonfiniteValue> FindAmax(std::uint64_t row, std::uint64_t end) {
    amax_.assign(blocks_, 0);
    for (; row < end; ++row) {
      for (std::uint64_t col = 0; col < panel_.cols; ++col) {
        const float value = At(row, col);
        if (!std::isfinite(value)) return NonfiniteValue{row, col, value};
        float& amax = amax_[col / block_.cols];
        amax = std::max(amax, std::abs(value));
      }
    }
    return std::nullopt;
  }

  void MakeScales(std::span<std::byte> stored) {
    const std::size_t bytes = ScaleBytes(scale_format_);
    divisors_.clear();
    for (std::uint64_t i = 0; i < blocks_; ++i) {
      const BlockScale scale = rule_.scale_of(amax_[i], panel_.format, panel_.tensor_scale);
      std::memcpy(stored.data() + i * bytes, &scale.stored, bytes);
      divisors_.push_back(scale.divisor);
    }
    // What a reader multiplies the codes by.
    DecodeScales(scale_format_, stored, scales_);
    if (rule_.tensor_scale_of != nullptr) {
      ApplyTensorScale(rule_.tensor_scale_use, panel_.tensor_scale, scales_);
    }
  }

  void EncodeRow(std::uint64_t row, std::uint8_t* codes) {
    for (std::uint64_t i = 0; i < blocks_; ++i) {
      const std::uint64_t first = row * panel_.cols + i * block_.cols;
      const std::uint64_t size = std::min(block_.cols, panel_.cols - i * block_.cols);
      internal::EncodeByMeaning(
          rule_, panel_.format, panel_.values.subspan(first * value_bytes_, size * value_bytes_),
          divisors_[i], scales_[i], codes + first * CodeBits(rule_.codes) / 8, quality_);
    }
  }

  const EncodeRule& rule_;
  const EncodePanel& panel_;
  Quality& quality_;
  const BlockShape block_;
  const std::uint64_t blocks_;  // side by side
  const ScaleFormat scale_format_;
  const std::size_t value_bytes_;
  // Of a row of blocks.
  std::vector<float> amax_;
  std::vector<float> divisors_;
  std::vector<float> scales_;
};

}  // namespace

namespace internal {

void EncodeByMeaning(const EncodeRule& rule, FloatFormat format, std::span<const std::byte> values,
                     float divisor, float scale, std::uint8_t* codes, Quality& quality) {
  const bool halves = CodeBits(rule.codes) == 4;
  const std::size_t size = values.size() / FloatBytes(format);
  const float lowest = rule.smallest * scale;
  const float highest = rule.largest * scale;
  for (std::size_t i = 0; i < size; ++i) {
    const float value = ValueAt(format, values.data(), i);
    const std::uint8_t code = rule.code_of(value, divisor, format);
    if (!halves) {
      codes[i] = code;
    } else if (i % 2 == 0) {
      codes[i / 2] = code;
    } else {
      codes[i / 2] = static_cast<std::uint8_t>(codes[i / 2] | code << 4);
    }
    const float made = DecodeCode(rule.codes, code) * scale;
    const auto error = static_cast<double>(std::abs(value - made));
    quality.sum_squared_error += error * error;
    quality.sum_squares += static_cast<double>(value) * static_cast<double>(value);
    quality.max_abs_error = std::max(quality.max_abs_error, error);
    quality.flushed_to_zero += value != 0 && made == 0 ? 1U : 0U;
    quality.saturated += value < lowest || value > highest ? 1U : 0U;
  }
}

}  // namespace internal

std::optional<NonfiniteValue> EncodeScalar(const EncodeRule& rule, const EncodePanel& panel,
                                           std::span<std::uint8_t> codes,
                                           std::span<std::byte> scales, Quality& quality) {
  const internal::DefaultFloatEnvironment environment;
  return ScalarEncoder(rule, panel, quality).Run(codes, scales);
}

}  // namespace dsv3::quant

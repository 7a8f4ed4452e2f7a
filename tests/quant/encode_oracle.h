#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "quant/codec.h"
#include "quant/encode.h"
#include "tests/quant/quantize_oracle.h"

// What tests of encode.h's rules share.
namespace dsv3::quant {

// A double rounded to nearest even with so many bits, the hidden one included, and no smaller unit
// than 2^least: written apart from the code under test.
inline double RoundTo(double value, int bits, int least) {
  if (value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - bits, least);
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}
inline double RoundToFloat(double value) { return RoundTo(value, 24, -149); }
inline double RoundToOwn(FloatFormat own, double value) {
  if (own == FloatFormat::kBF16) return RoundTo(value, 8, -133);
  return own == FloatFormat::kF16 ? RoundTo(value, 11, -24) : RoundToFloat(value);
}

struct Encoded {
  std::vector<std::uint8_t> codes;  // one in a byte
  std::vector<std::byte> scale_bytes;
  std::vector<float> scales;
  Quality quality;
  std::optional<NonfiniteValue> nonfinite;
};

inline Encoded EncodeMatrix(const EncodeRule& rule, FloatFormat own,
                            std::span<const std::byte> values, std::uint64_t rows,
                            std::uint64_t cols, float tensor_scale = 1, bool scalar = false) {
  const BlockShape block = BlockOf(rule, cols);
  const unsigned bits = CodeBits(rule.codes);
  std::vector<std::uint8_t> packed(rows * cols * bits / 8);
  Encoded result;
  result.scale_bytes.resize(((rows - 1) / block.rows + 1) * ((cols - 1) / block.cols + 1) *
                            ScaleBytes(StoredScaleOf(rule, own)));
  const EncodePanel panel{own, values, rows, cols, tensor_scale};
  result.nonfinite = scalar ? EncodeScalar(rule, panel, packed, result.scale_bytes, result.quality)
                            : Encode(rule, panel, packed, result.scale_bytes, result.quality);
  if (result.nonfinite) return result;
  DecodeScales(StoredScaleOf(rule, own), result.scale_bytes, result.scales);
  for (const std::uint8_t byte : packed) {
    if (bits == 8) {
      result.codes.push_back(byte);
    } else {
      result.codes.push_back(byte & 0xFU);
      result.codes.push_back(static_cast<std::uint8_t>(byte >> 4));
    }
  }
  return result;
}

// The largest finite number of a format, as its bits.
inline std::uint32_t MostBits(FloatFormat own) {
  if (own == FloatFormat::kF32) return 0x7F7F'FFFF;
  return own == FloatFormat::kF16 ? 0x7BFF : 0x7F7F;
}

inline float FromBits(FloatFormat own, std::uint32_t bits) {
  switch (own) {
    case FloatFormat::kBF16:
      return DecodeBF16(static_cast<std::uint16_t>(bits));
    case FloatFormat::kF16:
      return DecodeF16(static_cast<std::uint16_t>(bits));
    case FloatFormat::kF32:
      break;
  }
  return std::bit_cast<float>(bits);
}

}  // namespace dsv3::quant

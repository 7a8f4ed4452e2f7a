#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "tests/convert/support/tiny_checkpoint.h"

// What fp8-to-bf16 must give, from the formats' definitions and nothing of the program's own:
// BF16(float(code) × scale), rounded once to nearest even.
namespace dsv3::testing {

inline float E4M3Value(std::uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

inline float E5M2Value(std::uint8_t code) {
  const int exponent = (code >> 2) & 31;
  const int mantissa = code & 3;
  float magnitude = std::ldexp(static_cast<float>(exponent == 0 ? mantissa : 4 + mantissa),
                               (exponent == 0 ? 1 : exponent) - 17);
  if (exponent == 31) {
    magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::quiet_NaN();
  }
  return std::copysign(magnitude, (code & 0x80) != 0 ? -1.0F : 1.0F);
}

inline std::uint16_t ExpectedBf16(std::uint8_t code, float scale,
                                  formats::Dtype dtype = formats::Dtype::kF8E4M3) {
  const bool negative = (code & 0x80) != 0;
  const bool e4m3 = dtype == formats::Dtype::kF8E4M3;
  const int largest = e4m3 ? 0x7E : 0x7C;
  if ((code & 0x7F) > largest) return negative ? 0xFFC0 : 0x7FC0;
  const float product = (e4m3 ? E4M3Value(code) : E5M2Value(code)) * scale;
  if (std::isnan(product)) return negative != std::signbit(scale) ? 0xFFC0 : 0x7FC0;
  std::uint32_t bits = 0;
  std::memcpy(&bits, &product, sizeof(bits));
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Element `at` of a tensor of scales.
inline float ScaleValue(const TinyTensor& scale, std::uint64_t at) {
  const char* const bytes = scale.bytes.data() + at * formats::DtypeBits(scale.dtype) / 8;
  float value = 0;
  if (scale.dtype == formats::Dtype::kF32) {
    std::memcpy(&value, bytes, sizeof(value));
  } else if (scale.dtype == formats::Dtype::kBF16) {
    std::memcpy(reinterpret_cast<char*>(&value) + 2, bytes, 2);
  } else if (scale.dtype == formats::Dtype::kF16) {
    // The scales of these tests are positive and normal, or NaN with all bits set.
    std::uint16_t half = 0;
    std::memcpy(&half, bytes, sizeof(half));
    value = half == 0xFFFF
                ? std::numeric_limits<float>::quiet_NaN()
                : std::ldexp(static_cast<float>(1024 + (half & 0x3FF)), (half >> 10) - 25);
  } else {
    const auto code = static_cast<std::uint8_t>(*bytes);
    value = code == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, code - 127);
  }
  return value;
}

inline TinyTensor ExpectedBf16(const TinyTensor& weight, const TinyTensor& scale,
                               std::uint64_t block_rows, std::uint64_t block_cols) {
  TinyTensor result{weight.shard, weight.name, formats::Dtype::kBF16, weight.shape, ""};
  const std::uint64_t cols = weight.shape[1];
  const std::uint64_t scale_cols = (cols + block_cols - 1) / block_cols;
  for (std::uint64_t i = 0; i < weight.bytes.size(); ++i) {
    const std::uint64_t block = i / cols / block_rows * scale_cols + i % cols / block_cols;
    const std::uint16_t value =
        ExpectedBf16(static_cast<std::uint8_t>(weight.bytes[i]), ScaleValue(scale, block));
    result.bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return result;
}

// The tensors and the index of the converted checkpoint; config and side files are the caller's.
inline TinyCheckpoint ExpectedBf16(TinyCheckpoint source, std::uint64_t block_rows,
                                   std::uint64_t block_cols) {
  const std::string suffix = "_scale_inv";
  TinyCheckpoint result;
  for (const TinyTensor& tensor : source.tensors) {
    if (tensor.name.ends_with(suffix)) continue;
    if (tensor.dtype == formats::Dtype::kF8E4M3) {
      result.tensors.push_back(
          ExpectedBf16(tensor, source.Find(tensor.name + suffix), block_rows, block_cols));
    } else {
      result.tensors.push_back(tensor);
    }
  }
  return result;
}

}  // namespace dsv3::testing

// The rules of encode.h whose codes are integers, and those of FP8 in blocks.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "quant/codec.h"
#include "quant/encode.h"
#include "quant/encode_piece.h"

namespace dsv3::quant {
namespace internal {
namespace {

// The integers that codes are, and what is added to make a code.
struct IntegerRange {
  float lowest = -128;
  float highest = 127;
  std::int32_t offset = 0;
};

// The bits of a float's mantissa that a format does not have. Quotients are far from the formats'
// largest numbers; those that would be subnormal in F16 are far below a half, and become zero
// rounded or not.
int DroppedBits(FloatFormat own) {
  if (own == FloatFormat::kF32) return 0;
  return own == FloatFormat::kF16 ? 13 : 16;
}

// A finite float rounded to nearest even after `dropped` bits.
float RoundBits(float value, int dropped) {
  if (dropped == 0) return value;
  auto bits = std::bit_cast<std::uint32_t>(value);
  bits += (std::uint32_t{1} << (dropped - 1)) - 1 + (bits >> dropped & 1);
  return std::bit_cast<float>(bits >> dropped << dropped);
}

std::uint8_t IntegerCode(float value, float divisor, int dropped, const IntegerRange& range) {
  const float quotient = RoundBits(value / divisor, dropped);
  const float clamped = std::min(std::max(quotient, range.lowest), range.highest);
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(std::nearbyint(clamped)) +
                                   range.offset);
}

constexpr IntegerRange kInt8Range = {-128, 127, 0};
constexpr IntegerRange kInt4Range = {-8, 7, 8};

// `steps` of the scale are the largest magnitude; in the values' own format, and its epsilon where
// that comes to zero.
BlockScale OwnScale(float amax, float steps, FloatFormat own) {
  const float scale = amax / steps;
  switch (own) {
    case FloatFormat::kBF16: {
      std::uint16_t bits = EncodeBF16(scale);
      if (bits == 0) bits = EncodeBF16(0x1p-7F);
      return {bits, DecodeBF16(bits)};
    }
    case FloatFormat::kF16: {
      std::uint16_t bits = EncodeF16(scale);
      if (bits == 0) bits = EncodeF16(0x1p-10F);
      return {bits, DecodeF16(bits)};
    }
    case FloatFormat::kF32:
      break;
  }
  const float stored = scale == 0 ? 0x1p-23F : scale;
  return {std::bit_cast<std::uint32_t>(stored), stored};
}

BlockScale OwnInt8Scale(float amax, FloatFormat own, float /*tensor_scale*/) {
  return OwnScale(amax, 127.5F, own);
}

BlockScale OwnInt4Scale(float amax, FloatFormat own, float /*tensor_scale*/) {
  return OwnScale(amax, 7.5F, own);
}

BlockScale FloatInt8Scale(float amax, FloatFormat /*own*/, float /*tensor_scale*/) {
  const float scale = amax / 127.0F;
  const float stored = scale == 0 ? 1.0F : scale;
  return {std::bit_cast<std::uint32_t>(stored), stored};
}

std::uint8_t OwnInt8Code(float value, float divisor, FloatFormat own) {
  return IntegerCode(value, divisor, DroppedBits(own), kInt8Range);
}

std::uint8_t OwnInt4Code(float value, float divisor, FloatFormat own) {
  return IntegerCode(value, divisor, DroppedBits(own), kInt4Range);
}

std::uint8_t FloatInt8Code(float value, float divisor, FloatFormat /*own*/) {
  return IntegerCode(value, divisor, 0, kInt8Range);
}

}  // namespace
}  // namespace internal

const EncodeRule& LlmCompressorInt8() {
  static constexpr EncodeRule kRule{.name = "llm-compressor int8",
                                    .codes = CodeFormat::kI8,
                                    .block = {1, 0},
                                    .scale_of = internal::OwnInt8Scale,
                                    .code_of = internal::OwnInt8Code,
                                    .scales_of = internal::OwnInt8Scales,
                                    .encode_run = internal::EncodeOwnInt8Run,
                                    .smallest = -129.0F,
                                    .largest = 128.0F};
  return kRule;
}

const EncodeRule& LlmCompressorInt4() {
  static constexpr EncodeRule kRule{.name = "llm-compressor int4",
                                    .codes = CodeFormat::kI4Offset,
                                    .block = {1, 32},
                                    .scale_of = internal::OwnInt4Scale,
                                    .code_of = internal::OwnInt4Code,
                                    .scales_of = internal::OwnInt4Scales,
                                    .encode_run = internal::EncodeOwnInt4Run,
                                    .smallest = -9.0F,
                                    .largest = 8.0F};
  return kRule;
}

const EncodeRule& BlockInt8() {
  static constexpr EncodeRule kRule{.name = "deepseek int8-block",
                                    .codes = CodeFormat::kI8,
                                    .block = {128, 128},
                                    .scale = ScaleFormat::kF32,
                                    .scale_of = internal::FloatInt8Scale,
                                    .code_of = internal::FloatInt8Code,
                                    .scales_of = internal::FloatInt8Scales,
                                    .encode_run = internal::EncodeFloatInt8Run,
                                    .smallest = -129.0F,
                                    .largest = 128.0F};
  return kRule;
}

const EncodeRule& DeepSeekFp8() {
  static constexpr EncodeRule kRule{
      .name = "deepseek fp8",
      .codes = CodeFormat::kE4M3,
      .block = {128, 128},
      .fp8 = QuantizeFormat{.recipe = QuantizeRecipe::kDeepSeek, .block = {128, 128}}};
  return kRule;
}

const EncodeRule& LlmCompressorFp8() {
  static constexpr EncodeRule kRule{
      .name = "llm-compressor fp8",
      .codes = CodeFormat::kE4M3,
      .block = {128, 128},
      .fp8 = QuantizeFormat{.recipe = QuantizeRecipe::kLlmCompressor, .block = {128, 128}}};
  return kRule;
}

}  // namespace dsv3::quant

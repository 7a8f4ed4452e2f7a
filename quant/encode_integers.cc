// The rules of encode.h whose codes are integers, and their kernels, compiled once for each
// instruction set.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "quant/codec.h"
#include "quant/encode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/encode_integers.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_ENCODE_INTEGERS_ONCE
#define DSV3_QUANT_ENCODE_INTEGERS_ONCE
namespace dsv3::quant::internal {

inline constexpr std::size_t kIntegerLanes = 16;  // at most, in a vector of floats

// The integers that codes are, and what is added to make a code.
struct IntegerRange {
  float lowest = -128;
  float highest = 127;
  std::int32_t offset = 0;
};

// The bits of a float's mantissa that a format does not have. Quotients are far from the formats'
// largest numbers; those that would be subnormal in F16 are far below a half, and become zero
// rounded or not.
inline int DroppedBits(FloatFormat own) {
  if (own == FloatFormat::kF32) return 0;
  return own == FloatFormat::kF16 ? 13 : 16;
}

// A finite float rounded to nearest even after `dropped` bits.
inline float RoundBits(float value, int dropped) {
  if (dropped == 0) return value;
  auto bits = std::bit_cast<std::uint32_t>(value);
  bits += (std::uint32_t{1} << (dropped - 1)) - 1 + (bits >> dropped & 1);
  return std::bit_cast<float>(bits >> dropped << dropped);
}

inline std::uint8_t IntegerCode(float value, float divisor, int dropped,
                                const IntegerRange& range) {
  const float quotient = RoundBits(value / divisor, dropped);
  const float clamped = std::min(std::max(quotient, range.lowest), range.highest);
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(std::nearbyint(clamped)) +
                                   range.offset);
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_ENCODE_INTEGERS_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

std::size_t EncodeVectors(const float* /*values*/, std::size_t /*count*/, float /*divisor*/,
                          int /*dropped*/, const IntegerRange& /*range*/, std::uint8_t* /*codes*/) {
  return 0;
}

#else

// The codes of all whole vectors; returns how many.
HWY_INLINE std::size_t EncodeVectors(const float* HWY_RESTRICT values, std::size_t count,
                                     float divisor, int dropped, const IntegerRange& range,
                                     std::uint8_t* HWY_RESTRICT codes) {
  const hn::CappedTag<float, kIntegerLanes> df;
  const hn::RebindToUnsigned<decltype(df)> du;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<std::uint8_t, decltype(df)> d8;
  const std::size_t lanes = hn::Lanes(df);
  const auto by = hn::Set(df, divisor);
  const auto lowest = hn::Set(df, range.lowest);
  const auto highest = hn::Set(df, range.highest);
  const auto offset = hn::Set(di, range.offset);
  const auto low_byte = hn::Set(di, 0xFF);
  const auto one = hn::Set(du, 1);
  const auto below_half = hn::Set(du, dropped == 0 ? 0U : (std::uint32_t{1} << (dropped - 1)) - 1U);
  const auto kept = hn::Set(du, ~((std::uint32_t{1} << dropped) - 1U));
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    auto quotient = hn::Div(hn::LoadU(df, values + i), by);
    if (dropped != 0) {
      const auto bits = hn::BitCast(du, quotient);
      const auto odd = hn::And(hn::ShiftRightSame(bits, dropped), one);
      const auto up = hn::Add(bits, hn::Add(below_half, odd));
      quotient = hn::BitCast(df, hn::And(up, kept));
    }
    const auto clamped = hn::Min(hn::Max(quotient, lowest), highest);
    const auto code = hn::And(hn::Add(hn::NearestInt(clamped), offset), low_byte);
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
  }
  return i;
}

#endif  // HWY_TARGET == HWY_SCALAR

void EncodeIntegersBest(const EncodeRow& row, const IntegerRange& range, int dropped,
                        std::uint8_t* HWY_RESTRICT codes) {
  const std::uint64_t cols = row.values.size();
  const float* divisor = row.divisors.data();
  for (std::uint64_t begin = 0; begin < cols; begin += row.block_cols, ++divisor) {
    const std::uint64_t count = std::min(row.block_cols, cols - begin);
    const float* const values = row.values.data() + begin;
    for (std::size_t i = EncodeVectors(values, count, *divisor, dropped, range, codes + begin);
         i < count; ++i) {
      codes[begin + i] = IntegerCode(values[i], *divisor, dropped, range);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {
namespace {

HWY_EXPORT(EncodeIntegersBest);

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

void EncodeOwnInt8(const EncodeRow& row, std::uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodeIntegersBest)(row, kInt8Range, DroppedBits(row.own), codes);
}

void EncodeOwnInt4(const EncodeRow& row, std::uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodeIntegersBest)(row, kInt4Range, DroppedBits(row.own), codes);
}

void EncodeFloatInt8(const EncodeRow& row, std::uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodeIntegersBest)(row, kInt8Range, 0, codes);
}

}  // namespace
}  // namespace internal

const EncodeRule& LlmCompressorInt8() {
  static constexpr EncodeRule kRule{.name = "llm-compressor int8",
                                    .codes = CodeFormat::kI8,
                                    .block = {1, 0},
                                    .scale_of = internal::OwnInt8Scale,
                                    .code_of = internal::OwnInt8Code,
                                    .encode_row = internal::EncodeOwnInt8,
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
                                    .encode_row = internal::EncodeOwnInt4,
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
                                    .encode_row = internal::EncodeFloatInt8,
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
#endif  // HWY_ONCE

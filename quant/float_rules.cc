// The rules of encode.h whose codes are E2M1, or E4M3 in groups of 32 columns.
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

// Which codes quotients between those of E2M1 get.
enum class E2M1Rounding {
  kTiesToEven,           // −0 becomes +0
  kTiesDownMinusForZero  // towards zero; a zero of either sign becomes −0
};

// Halfway between the magnitudes of neighbouring codes.
constexpr float kE2M1Bounds[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F};
constexpr float kE2M1Max = 6.0F;
constexpr std::uint8_t kE2M1Minus = 8;

// The code of a quotient: by its meaning, the bounds that it lies beyond. Magnitudes up to `zero`
// are zero.
std::uint8_t E2M1CodeOf(float quotient, E2M1Rounding rounding, float zero = 0) {
  const float magnitude = std::abs(quotient);
  const bool even = rounding == E2M1Rounding::kTiesToEven;
  unsigned code = 0;
  for (const float bound : kE2M1Bounds) {
    // The code below a bound with an odd place is odd.
    const bool tie_goes_up = even && code % 2 == 1;
    if (magnitude > bound || (magnitude == bound && tie_goes_up)) ++code;
  }
  const bool minus = quotient < -zero || (!even && quotient == 0);
  return static_cast<std::uint8_t>(code | (minus ? kE2M1Minus : 0U));
}

// E4M3 of a quotient, which is at most 448 after the clamp.
std::uint8_t ClampedE4M3(float quotient) {
  return EncodeE4M3(std::min(std::max(quotient, -kE4M3Max), kE4M3Max));
}

constexpr float kE2M1TimesE4M3 = 2688.0F;  // 6 × 448
constexpr int kE8M0Bias = 127;

// Rounded to the values' own format.
float RoundedToOwn(float value, FloatFormat own) {
  if (own == FloatFormat::kF32) return value;
  return own == FloatFormat::kF16 ? DecodeF16(EncodeF16(value)) : DecodeBF16(EncodeBF16(value));
}

BlockScale E8M0Scale(int exponent_field) {
  const auto byte = static_cast<std::uint8_t>(std::clamp(exponent_field, 0, 254));
  return {byte, DecodeE8M0(byte)};
}

// compressed-tensors: the exponent field of the largest magnitude in its own format after a
// quarter of its power of two was added, less `largest`, the exponent of the largest code.
// Magnitudes whose field is 0 then count as 0.
int FieldWithCarry(float amax, FloatFormat own, int largest) {
  const auto bits = std::bit_cast<std::uint32_t>(amax);
  int field = static_cast<int>((bits + (1U << 21)) >> 23);
  if (own == FloatFormat::kF16 && amax < 0x1p-14F) {
    // A subnormal number there, which is none as a float.
    field = amax >= 0x1.8p-15F ? kE8M0Bias - 14 : 0;
  }
  return field == 0 ? 0 : field - largest;
}

BlockScale CarriedFp4Scale(float amax, FloatFormat own, float /*tensor_scale*/) {
  return E8M0Scale(FieldWithCarry(amax, own, 2));
}

BlockScale CarriedFp8Scale(float amax, FloatFormat own, float /*tensor_scale*/) {
  return E8M0Scale(FieldWithCarry(amax, own, 8));
}

// ModelOpt: ceil(log2 (amax / largest)), both rounded to float.
BlockScale CeiledScale(float amax, float largest) {
  const float quotient = amax / largest;
  if (quotient == 0) return E8M0Scale(0);
  const auto log2 = static_cast<float>(std::log2(static_cast<double>(quotient)));
  return E8M0Scale(kE8M0Bias + static_cast<int>(std::ceil(log2)));
}

BlockScale CeiledFp4Scale(float amax, FloatFormat /*own*/, float /*tensor_scale*/) {
  return CeiledScale(amax, kE2M1Max);
}

BlockScale CeiledFp8Scale(float amax, FloatFormat /*own*/, float /*tensor_scale*/) {
  return CeiledScale(amax, kE4M3Max);
}

float ModelOptTensorScale(float amax, FloatFormat /*own*/) {
  const float scale = amax / kE2M1TimesE4M3;
  // ModelOpt stores 0, which no reader can divide by.
  return scale == 0 ? 1.0F : scale;
}

BlockScale ModelOptGroupScale(float amax, FloatFormat /*own*/, float tensor_scale) {
  const float quotient = amax / (kE2M1Max * tensor_scale);
  const float scale = quotient == 0 ? 1.0F : std::clamp(quotient, 0x1p-9F, kE4M3Max);
  const std::uint8_t code = EncodeE4M3(scale);
  return {code, DecodeE4M3(code) * tensor_scale};
}

float LlmCompressorTensorScale(float amax, FloatFormat own) {
  // torch divides by a tensor as a product with its reciprocal.
  const float reciprocal = RoundedToOwn(1.0F / amax, own);
  const float scale = RoundedToOwn(reciprocal * kE2M1TimesE4M3, own);
  return std::isfinite(scale) ? scale : 1.0F;
}

BlockScale LlmCompressorGroupScale(float amax, FloatFormat own, float tensor_scale) {
  const float scale = tensor_scale * RoundedToOwn(amax / kE2M1Max, own);
  std::uint8_t code = EncodeE4M3(std::min(scale, kE4M3Max));
  if (code == 0) code = EncodeE4M3(0.125F);
  return {code, DecodeE4M3(code) / tensor_scale};
}

std::uint8_t EvenE2M1Code(float value, float divisor, FloatFormat /*own*/) {
  return E2M1CodeOf(value / divisor, E2M1Rounding::kTiesToEven);
}

// Magnitudes of quotients that the values' own format rounds to zero.
float OwnZero(FloatFormat own) {
  if (own == FloatFormat::kF32) return 0;
  return own == FloatFormat::kF16 ? 0x1p-25F : 0x1p-134F;
}

std::uint8_t OwnE2M1Code(float value, float divisor, FloatFormat own) {
  return E2M1CodeOf(value / divisor, E2M1Rounding::kTiesToEven, OwnZero(own));
}

std::uint8_t DownE2M1Code(float value, float divisor, FloatFormat /*own*/) {
  return E2M1CodeOf(value / divisor, E2M1Rounding::kTiesDownMinusForZero);
}

std::uint8_t E4M3Code(float value, float divisor, FloatFormat /*own*/) {
  return ClampedE4M3(value / divisor);
}

// A rule of E2M1 codes. Beyond 7 more than half of a step is lost.
constexpr EncodeRule E2M1Rule(const char* name, std::uint64_t columns, ScaleFormat scale) {
  EncodeRule rule;
  rule.name = name;
  rule.codes = CodeFormat::kE2M1;
  rule.block = {1, columns};
  rule.scale = scale;
  rule.code_of = EvenE2M1Code;
  rule.encode_run = EncodeE2M1Run;
  rule.smallest = -7.0F;
  rule.largest = 7.0F;
  return rule;
}

constexpr EncodeRule MxFp8Rule(const char* name) {
  EncodeRule rule;
  rule.name = name;
  rule.codes = CodeFormat::kE4M3;
  rule.block = {1, 32};
  rule.scale = ScaleFormat::kE8M0;
  rule.code_of = E4M3Code;
  rule.encode_run = EncodePowerE4M3Run;
  rule.smallest = -464.0F;
  rule.largest = 464.0F;
  return rule;
}

constexpr EncodeRule MakeModelOptNvFp4() {
  EncodeRule rule = E2M1Rule("modelopt nvfp4", 16, ScaleFormat::kE4M3);
  rule.scale_of = ModelOptGroupScale;
  rule.scales_of = ModelOptGroupScales;
  rule.tensor_scale_of = ModelOptTensorScale;
  return rule;
}

constexpr EncodeRule MakeLlmCompressorNvFp4() {
  EncodeRule rule = E2M1Rule("llm-compressor nvfp4", 16, ScaleFormat::kE4M3);
  rule.scale_of = LlmCompressorGroupScale;
  rule.scales_of = LlmCompressorGroupScales;
  rule.tensor_scale_of = LlmCompressorTensorScale;
  rule.tensor_scale_use = TensorScaleUse::kDivide;
  return rule;
}

constexpr EncodeRule MakeLlmCompressorMxFp4() {
  EncodeRule rule = E2M1Rule("llm-compressor mxfp4", 32, ScaleFormat::kE8M0);
  rule.scale_of = CarriedFp4Scale;
  rule.scales_of = CarriedFp4Scales;
  rule.code_of = OwnE2M1Code;
  rule.encode_run = EncodePowerE2M1Run;
  return rule;
}

constexpr EncodeRule MakeModelOptMxFp4() {
  EncodeRule rule = E2M1Rule("modelopt mxfp4", 32, ScaleFormat::kE8M0);
  rule.scale_of = CeiledFp4Scale;
  rule.scales_of = CeiledFp4Scales;
  rule.code_of = DownE2M1Code;
  rule.encode_run = EncodePowerE2M1DownRun;
  return rule;
}

constexpr EncodeRule MakeLlmCompressorMxFp8() {
  EncodeRule rule = MxFp8Rule("llm-compressor mxfp8");
  rule.scale_of = CarriedFp8Scale;
  rule.scales_of = CarriedFp8Scales;
  return rule;
}

constexpr EncodeRule MakeModelOptMxFp8() {
  EncodeRule rule = MxFp8Rule("modelopt mxfp8");
  rule.scale_of = CeiledFp8Scale;
  rule.scales_of = CeiledFp8Scales;
  return rule;
}

}  // namespace
}  // namespace internal

const EncodeRule& ModelOptNvFp4() {
  static constexpr EncodeRule kRule = internal::MakeModelOptNvFp4();
  return kRule;
}

const EncodeRule& LlmCompressorNvFp4() {
  static constexpr EncodeRule kRule = internal::MakeLlmCompressorNvFp4();
  return kRule;
}

const EncodeRule& LlmCompressorMxFp4() {
  static constexpr EncodeRule kRule = internal::MakeLlmCompressorMxFp4();
  return kRule;
}

const EncodeRule& ModelOptMxFp4() {
  static constexpr EncodeRule kRule = internal::MakeModelOptMxFp4();
  return kRule;
}

const EncodeRule& LlmCompressorMxFp8() {
  static constexpr EncodeRule kRule = internal::MakeLlmCompressorMxFp8();
  return kRule;
}

const EncodeRule& ModelOptMxFp8() {
  static constexpr EncodeRule kRule = internal::MakeModelOptMxFp8();
  return kRule;
}

}  // namespace dsv3::quant

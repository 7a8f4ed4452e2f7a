// The vector kernels that make the scales of encode.h's rules for BF16 values, compiled once for
// each instruction set. The scale of each rule has its formula in scale_of of the same name.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/encode_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/encode_scales.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 16>;
using Words = hn::RebindToUnsigned<Floats>;
using VFloats = hn::Vec<Floats>;
using VWords = hn::Vec<Words>;

// Writes the lowest kBytes bytes of each word for `count` scales, at any address.
template <std::size_t kBytes>
HWY_INLINE void PutScales(VWords words, std::size_t count, std::byte* to) {
  HWY_ALIGN std::uint32_t each[16];
  hn::Store(words, Words(), each);
  for (std::size_t i = 0; i < count; ++i) std::memcpy(to + i * kBytes, each + i, kBytes);
}

// Calls scale(amax, divisor) for vectors of blocks: it returns the words to be stored.
template <std::size_t kBytes, class Scale>
HWY_INLINE void ForEachVector(const ScaleRun& run, const Scale& scale) {
  const Floats df;
  const std::size_t lanes = hn::Lanes(df);
  for (std::size_t i = 0; i < run.count; i += lanes) {
    VFloats divisor;
    const VWords words = scale(hn::LoadU(df, run.amax + i), divisor);
    hn::StoreU(divisor, df, run.divisors + i);
    PutScales<kBytes>(words, HWY_MIN(lanes, run.count - i), run.stored + i * kBytes);
  }
}

// The bits of the BF16 number nearest to one that is not negative, ties to even.
HWY_INLINE VWords BF16Bits(VFloats value) {
  const Words du;
  const VWords bits = hn::BitCast(du, value);
  const VWords odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  return hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7FFF)), odd));
}

HWY_INLINE VFloats FromBF16(VWords bits) { return hn::BitCast(Floats(), hn::ShiftLeft<16>(bits)); }

HWY_INLINE void OwnScales(const ScaleRun& run, float steps) {
  ForEachVector<2>(run, [steps](VFloats amax, VFloats& divisor) HWY_ATTR {
    const Words du;
    const VWords bits = BF16Bits(hn::Div(amax, hn::Set(Floats(), steps)));
    // 2^-7, the distance from 1 to the next number.
    const VWords made = hn::IfThenElse(hn::Eq(bits, hn::Zero(du)), hn::Set(du, 0x3C00), bits);
    divisor = FromBF16(made);
    return made;
  });
}

void OwnInt8(const ScaleRun& run) { OwnScales(run, 127.5F); }
void OwnInt4(const ScaleRun& run) { OwnScales(run, 7.5F); }

void FloatInt8(const ScaleRun& run) {
  ForEachVector<4>(run, [](VFloats amax, VFloats& divisor) HWY_ATTR {
    const Floats df;
    const VFloats scale = hn::Div(amax, hn::Set(df, 127.0F));
    divisor = hn::IfThenElse(hn::Eq(scale, hn::Zero(df)), hn::Set(df, 1.0F), scale);
    return hn::BitCast(Words(), divisor);
  });
}

// The value of E8M0 bytes.
HWY_INLINE VFloats FromE8M0(VWords bytes) {
  const Words du;
  const VWords least = hn::Set(du, 0x0040'0000U);  // 2^-127, which is subnormal
  return hn::BitCast(Floats(), hn::Max(hn::ShiftLeft<23>(bytes), least));
}

// As FieldWithCarry of float_rules.cc says.
HWY_INLINE void CarriedScales(const ScaleRun& run, std::uint32_t largest) {
  ForEachVector<1>(run, [largest](VFloats amax, VFloats& divisor) HWY_ATTR {
    const Words du;
    const VWords carried = hn::Add(hn::BitCast(du, amax), hn::Set(du, 1U << 21));
    const VWords field = hn::ShiftRight<23>(carried);
    const VWords subtrahend = hn::Set(du, largest);
    // At most 254, since amax is finite: its field has 254 at most, and a carry.
    const VWords byte = hn::Sub(hn::Max(field, subtrahend), subtrahend);
    divisor = FromE8M0(byte);
    return byte;
  });
}

void CarriedFp4(const ScaleRun& run) { CarriedScales(run, 2); }
void CarriedFp8(const ScaleRun& run) { CarriedScales(run, 8); }

// The exponent of the power of two at or above the quotient. Quotients of BF16 numbers by 6 or 448
// are powers of two or far from them, so that a logarithm rounded to float does not change it.
HWY_INLINE void CeiledScales(const ScaleRun& run, float largest) {
  ForEachVector<1>(run, [largest](VFloats amax, VFloats& divisor) HWY_ATTR {
    const Words du;
    const VWords bits = hn::BitCast(du, hn::Div(amax, hn::Set(Floats(), largest)));
    // Up to 2^-127 it is the least byte.
    const VWords least = hn::Set(du, 0x0040'0000U);
    const VWords up = hn::ShiftRight<23>(hn::Add(bits, hn::Set(du, 0x007F'FFFFU)));
    const VWords byte = hn::IfThenElseZero(hn::Gt(bits, least), up);
    divisor = FromE8M0(byte);
    return byte;
  });
}

void CeiledFp4(const ScaleRun& run) { CeiledScales(run, 6.0F); }
void CeiledFp8(const ScaleRun& run) { CeiledScales(run, 448.0F); }

// The E4M3 code of a number from 0 to 448, and its value.
HWY_INLINE VWords E4M3Code(VFloats number, VFloats& value) {
  const Floats df;
  const Words du;
  const VWords smallest = hn::Set(du, 121U << 23);
  const VWords field =
      hn::Max(hn::And(hn::BitCast(du, number), hn::Set(du, 0x7F80'0000U)), smallest);
  // The sum with 2^20 times the power of two below the number leaves three bits behind that.
  const VWords magic = hn::Add(field, hn::Set(du, 20U << 23));
  const VFloats sum = hn::Add(number, hn::BitCast(df, magic));
  value = hn::Sub(sum, hn::BitCast(df, magic));
  const VWords steps = hn::Sub(hn::BitCast(du, sum), magic);
  return hn::Add(steps, hn::ShiftRight<20>(hn::Sub(field, smallest)));
}

void ModelOptGroup(const ScaleRun& run) {
  const float tensor_scale = run.tensor_scale;
  const float sixfold = 6.0F * tensor_scale;
  ForEachVector<1>(run, [tensor_scale, sixfold](VFloats amax, VFloats& divisor) HWY_ATTR {
    const Floats df;
    const VFloats quotient = hn::Div(amax, hn::Set(df, sixfold));
    const VFloats clamped = hn::Min(hn::Max(quotient, hn::Set(df, 0x1p-9F)), hn::Set(df, 448.0F));
    const VFloats scale =
        hn::IfThenElse(hn::Eq(quotient, hn::Zero(df)), hn::Set(df, 1.0F), clamped);
    VFloats value;
    const VWords code = E4M3Code(scale, value);
    divisor = hn::Mul(value, hn::Set(df, tensor_scale));
    return code;
  });
}

void LlmCompressorGroup(const ScaleRun& run) {
  const float tensor_scale = run.tensor_scale;
  ForEachVector<1>(run, [tensor_scale](VFloats amax, VFloats& divisor) HWY_ATTR {
    const Floats df;
    const Words du;
    const VFloats sixth = FromBF16(BF16Bits(hn::Div(amax, hn::Set(df, 6.0F))));
    const VFloats scale = hn::Mul(hn::Set(df, tensor_scale), sixth);
    VFloats value;
    const VWords code = E4M3Code(hn::Min(scale, hn::Set(df, 448.0F)), value);
    const auto is_zero = hn::Eq(code, hn::Zero(du));
    value = hn::IfThenElse(hn::RebindMask(df, is_zero), hn::Set(df, 0.125F), value);
    divisor = hn::Div(value, hn::Set(df, tensor_scale));
    return hn::IfThenElse(is_zero, hn::Set(du, 0x20), code);  // that of 0.125
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(OwnInt8);
HWY_EXPORT(OwnInt4);
HWY_EXPORT(FloatInt8);
HWY_EXPORT(CarriedFp4);
HWY_EXPORT(CarriedFp8);
HWY_EXPORT(CeiledFp4);
HWY_EXPORT(CeiledFp8);
HWY_EXPORT(ModelOptGroup);
HWY_EXPORT(LlmCompressorGroup);

void OwnInt8Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(OwnInt8)(run); }
void OwnInt4Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(OwnInt4)(run); }
void FloatInt8Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(FloatInt8)(run); }
void CarriedFp4Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(CarriedFp4)(run); }
void CarriedFp8Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(CarriedFp8)(run); }
void CeiledFp4Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(CeiledFp4)(run); }
void CeiledFp8Scales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(CeiledFp8)(run); }
void ModelOptGroupScales(const ScaleRun& run) { HWY_DYNAMIC_DISPATCH(ModelOptGroup)(run); }
void LlmCompressorGroupScales(const ScaleRun& run) {
  HWY_DYNAMIC_DISPATCH(LlmCompressorGroup)(run);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

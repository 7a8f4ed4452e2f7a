// Values, quotients and codes in vectors, for each instruction set; included once for each by the
// files that use foreach_target.h.
#include <cstddef>
#include <cstdint>

#include "quant/quantize_rule.h"

#if defined(DSV3_QUANT_QUANTIZE_LANES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_QUANTIZE_LANES_INL_H
#undef DSV3_QUANT_QUANTIZE_LANES_INL_H
#else
#define DSV3_QUANT_QUANTIZE_LANES_INL_H
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::ScalableTag<std::uint32_t>;
using D16 = hn::ScalableTag<std::uint16_t>;
using DC = hn::Rebind<std::uint8_t, D16>;  // codes: half a vector
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using V16 = hn::Vec<D16>;

// The work is done in units of a vector of 16-bit numbers: two vectors of floats, one of the even
// and one of the odd elements.
HWY_INLINE std::size_t UnitSize() { return hn::Lanes(D16()); }

// ---- Loading --------------------------------------------------------------------------------

// Magnitudes as floats, and the signs where codes have theirs.
struct Bf16Values {
  static constexpr FloatFormat kFormat = FloatFormat::kBF16;
  static constexpr std::size_t kBytes = 2;

  static HWY_INLINE void Load(const std::byte* from, VF& even, VF& odd, V16& signs) {
    const D16 d16;
    const DU du;
    const V16 bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
    const VU pairs = hn::BitCast(du, hn::And(bits, hn::Set(d16, 0x7FFF)));
    even = hn::BitCast(DF(), hn::ShiftLeft<16>(pairs));
    odd = hn::BitCast(DF(), hn::And(pairs, hn::Set(du, 0xFFFF0000U)));
    signs = hn::And(hn::ShiftRight<8>(bits), hn::Set(d16, 0x80));
  }
};

struct F16Values {
  static constexpr FloatFormat kFormat = FloatFormat::kF16;
  static constexpr std::size_t kBytes = 2;

  static HWY_INLINE void Load(const std::byte* from, VF& even, VF& odd, V16& signs) {
    const D16 d16;
    const DU du;
    const DF df;
    const V16 bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
    const VU pairs = hn::BitCast(du, hn::And(bits, hn::Set(d16, 0x7FFF)));
    // At the place of a float's bits the exponent lacks the difference of the biases.
    const VF bias = hn::Set(df, 0x1p112F);
    const VU low = hn::ShiftLeft<13>(hn::And(pairs, hn::Set(du, 0xFFFF)));
    const VU high = hn::ShiftLeft<13>(hn::ShiftRight<16>(pairs));
    even = hn::Mul(hn::BitCast(df, low), bias);
    odd = hn::Mul(hn::BitCast(df, high), bias);
    signs = hn::And(hn::ShiftRight<8>(bits), hn::Set(d16, 0x80));
  }
};

struct F32Values {
  static constexpr FloatFormat kFormat = FloatFormat::kF32;
  static constexpr std::size_t kBytes = 4;

  static HWY_INLINE void Load(const std::byte* from, VF& even, VF& odd, V16& signs) {
    const DU du;
    VU first;
    VU second;
    hn::LoadInterleaved2(du, reinterpret_cast<const std::uint32_t*>(from), first, second);
    const VU magnitude = hn::Set(du, 0x7FFFFFFFU);
    even = hn::BitCast(DF(), hn::And(first, magnitude));
    odd = hn::BitCast(DF(), hn::And(second, magnitude));
    const VU low = hn::And(hn::ShiftRight<24>(first), hn::Set(du, 0x80));
    const VU high = hn::And(hn::ShiftRight<8>(second), hn::Set(du, 0x800000));
    signs = hn::BitCast(D16(), hn::Or(low, high));
  }
};

// ---- Quotients ------------------------------------------------------------------------------

// x · operand.
struct Multiply {
  static HWY_INLINE VF Of(VF x, VF operand, VF /*reciprocal*/) { return hn::Mul(x, operand); }
};

// x / operand, correctly rounded. When values have few bits, one step of correction makes it of
// their product with the reciprocal; see docs/numerics.md.
template <typename Values>
struct Divide {
  static constexpr bool kCorrects = HWY_NATIVE_FMA != 0 && Values::kFormat != FloatFormat::kF32;
  static HWY_INLINE VF Of(VF x, VF operand, VF reciprocal) {
    if constexpr (kCorrects) {
      const VF near = hn::Mul(x, reciprocal);
      return hn::MulAdd(hn::NegMulAdd(near, operand, x), reciprocal, near);
    } else {
      return hn::Div(x, operand);
    }
  }
};

// Rounded further to the format of the values, as far as that reaches the codes: numbers beneath
// its normal ones, which this rounds too finely, give codes of zero in either case.
template <typename Values>
struct DivideInOwn {
  static constexpr int kDropped = Values::kFormat == FloatFormat::kBF16 ? 16 : 13;
  static HWY_INLINE VF Of(VF x, VF operand, VF reciprocal) {
    const DU du;
    const VU bits = hn::BitCast(du, Divide<Values>::Of(x, operand, reciprocal));
    const VU is_odd = hn::And(hn::ShiftRight<kDropped>(bits), hn::Set(du, 1));
    const VU sum = hn::Add(bits, hn::Add(is_odd, hn::Set(du, (1U << (kDropped - 1)) - 1)));
    return hn::BitCast(DF(), hn::And(sum, hn::Set(du, ~((1U << kDropped) - 1))));
  }
};

// ---- Codes ----------------------------------------------------------------------------------

// Sums for the quality, in lanes of even and of odd elements.
struct LaneSums {
  HWY_ALIGN float error_squares[2 * hn::MaxLanes(DF())];
  HWY_ALIGN float squares[2 * hn::MaxLanes(DF())];
  HWY_ALIGN float largest_error[2 * hn::MaxLanes(DF())];
  std::size_t units = 0;  // added since the last flush
  std::uint64_t zero_codes = 0;
  std::uint64_t zero_values = 0;
};

// Sums of so many units are added up in float before they go into a double.
constexpr std::size_t kFlushUnits = 64;

HWY_INLINE void Flush(VF& even, VF& odd, double& total) {
  const DF df;
  total += static_cast<double>(hn::GetLane(hn::SumOfLanes(df, hn::Add(even, odd))));
  even = hn::Zero(df);
  odd = hn::Zero(df);
}

constexpr std::uint32_t kSmallestField = 121U << 23;  // of 2^-6, the smallest normal code
constexpr std::uint32_t kCodeBias = 121U << 3;

// The code of a quotient without sign, plus kCodeBias; and what the code stands for.
HWY_INLINE VU EncodeMagnitude(VF quotient, VF& rounded) {
  const DU du;
  const DF df;
  const VU field = hn::Max(hn::And(hn::BitCast(du, quotient), hn::Set(du, 0x7F800000U)),
                           hn::Set(du, kSmallestField));
  // Adding 2^20 times the power of two leaves three bits below it: rounds to nearest even.
  const VU magic = hn::Add(field, hn::Set(du, 20U << 23));
  const VF sum = hn::Add(quotient, hn::BitCast(df, magic));
  rounded = hn::Sub(sum, hn::BitCast(df, magic));
  const VU steps = hn::Sub(hn::BitCast(du, sum), magic);
  return hn::Add(steps, hn::ShiftRight<20>(field));
}

HWY_INLINE void AddErrors(VF x, VF rounded, VF scale, VF& error_squares, VF& squares,
                          VF& largest_error) {
  const VF error = hn::Sub(x, hn::Mul(rounded, scale));
  error_squares = hn::MulAdd(error, error, error_squares);
  squares = hn::MulAdd(x, x, squares);
  largest_error = hn::Max(largest_error, hn::Abs(error));
}

// Both vectors of a unit: their codes with signs, in the low bytes.
template <typename Quotient>
HWY_INLINE V16 EncodeUnit(VF even, VF odd, V16 signs, VF operand, VF reciprocal, VF scale,
                          VF& errors0, VF& errors1, VF& squares0, VF& squares1, VF& largest0,
                          VF& largest1, std::uint64_t& zero_codes, std::uint64_t& zero_values) {
  const DF df;
  const D16 d16;
  VF rounded0;
  VF rounded1;
  const VU low = EncodeMagnitude(Quotient::Of(even, operand, reciprocal), rounded0);
  const VU high = EncodeMagnitude(Quotient::Of(odd, operand, reciprocal), rounded1);
  AddErrors(even, rounded0, scale, errors0, squares0, largest0);
  AddErrors(odd, rounded1, scale, errors1, squares1, largest1);
  const V16 both = hn::BitCast(d16, hn::Or(low, hn::ShiftLeft<16>(high)));
  const V16 bias = hn::Set(d16, static_cast<std::uint16_t>(kCodeBias));
  const auto is_zero = hn::Eq(both, bias);
  if (HWY_UNLIKELY(!hn::AllFalse(d16, is_zero))) {
    zero_codes += hn::CountTrue(d16, is_zero);
    zero_values += hn::CountTrue(df, hn::Eq(even, hn::Zero(df))) +
                   hn::CountTrue(df, hn::Eq(odd, hn::Zero(df)));
  }
  return hn::Or(hn::Sub(both, bias), signs);
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard

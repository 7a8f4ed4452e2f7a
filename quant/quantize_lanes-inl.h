// Values, quotients and codes in vectors, for each instruction set; included once for each by the
// files that use foreach_target.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "quant/quality.h"
#include "quant/quantize_rule.h"

#if defined(DSV3_QUANT_QUANTIZE_LANES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_QUANTIZE_LANES_INL_H
#undef DSV3_QUANT_QUANTIZE_LANES_INL_H
#else
#define DSV3_QUANT_QUANTIZE_LANES_INL_H
#endif

#include "hwy/cache_control.h"
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
using DD = hn::ScalableTag<double>;
using VF = hn::Vec<DF>;
using VD = hn::Vec<DD>;
using VU = hn::Vec<DU>;
using V16 = hn::Vec<D16>;

// The work is done in units of a vector of 16-bit numbers: two vectors of floats, one of the even
// and one of the odd elements.
HWY_INLINE std::size_t UnitSize() { return hn::Lanes(D16()); }

// Fetches an element of the next tile; its address may lie behind all values.
HWY_INLINE void FetchAhead(const void* element, std::uint64_t ahead) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(element) + ahead;
  // Nothing is read through it, and a pointer that far behind the array could not be formed.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  hwy::Prefetch(reinterpret_cast<const std::uint8_t*>(address));
}

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

constexpr std::uint32_t kSmallestField = 121U << 23;  // of 2^-6, the smallest normal code
constexpr std::uint32_t kCodeBias = 121U << 3;

// The code of a quotient without sign, plus kCodeBias; and the value of the code.
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

// Moves float sums, which stay short so, on to double.
HWY_INLINE void Widen(VF& even, VF& odd, VD& total) {
  const DF df;
  const DD dd;
  const hn::Half<DF> half;
  const VF both = hn::Add(even, odd);
  total = hn::Add(total, hn::Add(hn::PromoteTo(dd, hn::LowerHalf(half, both)),
                                 hn::PromoteTo(dd, hn::UpperHalf(half, both))));
  even = odd = hn::Zero(df);
}

// The largest errors only if they were looked for.
template <bool kLargest>
HWY_INLINE void AddTo(Quality& quality, VD errors, VD squares, VF largest0, VF largest1) {
  const DD dd;
  quality.sum_squared_error += hn::GetLane(hn::SumOfLanes(dd, errors));
  quality.sum_squares += hn::GetLane(hn::SumOfLanes(dd, squares));
  if constexpr (kLargest) {
    const float largest = hn::GetLane(hn::MaxOfLanes(DF(), hn::Max(largest0, largest1)));
    quality.max_abs_error = std::max(quality.max_abs_error, static_cast<double>(largest));
  }
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard

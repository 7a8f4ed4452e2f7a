// Codes of encode.h's rules in vectors, for each instruction set; included once for each by the
// files that use foreach_target.h. docs/numerics.md says why they are those of the formulas.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "quant/quantize_rule.h"

#if defined(DSV3_QUANT_ENCODE_LANES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_ENCODE_LANES_INL_H
#undef DSV3_QUANT_ENCODE_LANES_INL_H
#else
#define DSV3_QUANT_ENCODE_LANES_INL_H
#endif

#include "hwy/highway.h"
#include "quant/quantize_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

// ---- Values ---------------------------------------------------------------------------------

// A unit of values as floats with their signs.
template <typename Values>
HWY_INLINE void LoadSigned(const std::byte* from, VF& even, VF& odd) {
  const DU du;
  if constexpr (std::is_same_v<Values, Bf16Values>) {
    const V16 bits = hn::LoadU(D16(), reinterpret_cast<const std::uint16_t*>(from));
    const VU pairs = hn::BitCast(du, bits);
    even = hn::BitCast(DF(), hn::ShiftLeft<16>(pairs));
    odd = hn::BitCast(DF(), hn::And(pairs, hn::Set(du, 0xFFFF0000U)));
  } else {
    V16 signs;
    Values::Load(from, even, odd, signs);
    const VU pairs = hn::BitCast(du, signs);
    const VU high = hn::And(hn::ShiftLeft<8>(pairs), hn::Set(du, 0x80000000U));
    even = hn::Or(even, hn::BitCast(DF(), hn::ShiftLeft<24>(pairs)));
    odd = hn::Or(odd, hn::BitCast(DF(), high));
  }
}

// 1 for each value of a unit that is not zero.
template <typename Values>
HWY_INLINE V16 NonzeroValues(const std::byte* from, VF even, VF odd) {
  if constexpr (Values::kBytes == 2) {
    const D16 d16;
    const V16 bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
    return hn::Min(hn::And(bits, hn::Set(d16, 0x7FFF)), hn::Set(d16, 1));
  } else {
    const DU du;
    const VU one = hn::Set(du, 1);
    const VU low = hn::Min(hn::BitCast(du, hn::Abs(even)), one);
    const VU high = hn::Min(hn::BitCast(du, hn::Abs(odd)), one);
    return hn::BitCast(D16(), hn::Or(low, hn::ShiftLeft<16>(high)));
  }
}

// ---- Codes ----------------------------------------------------------------------------------

// A quotient in the values' own format.
template <typename Values>
using OwnQuotient =
    std::conditional_t<Values::kFormat == FloatFormat::kF32, Divide<Values>, DivideInOwn<Values>>;

// A coder makes the codes of one vector of floats, and the numbers that these mean; then, of those
// of the even and of the odd values, the codes as they are stored, with signs, in 16 bits each.

template <template <typename> class Quotient, int kCodeBits>
struct IntegerCoder {
  static constexpr unsigned kBits = kCodeBits;

  template <typename Values>
  static HWY_INLINE void Load(const std::byte* from, VF& even, VF& odd, V16& signs) {
    LoadSigned<Values>(from, even, odd);
    signs = hn::Zero(D16());
  }

  template <typename Values>
  static HWY_INLINE VU CodeOf(VF value, VF scale, VF reciprocal, VF& made) {
    const DF df;
    constexpr int kHalf = 1 << (kCodeBits - 1);
    const VF quotient = Quotient<Values>::Of(value, scale, reciprocal);
    const VF clamped = hn::Min(hn::Max(quotient, hn::Set(df, static_cast<float>(-kHalf))),
                               hn::Set(df, static_cast<float>(kHalf - 1)));
    const auto code = hn::NearestInt(clamped);
    made = hn::ConvertTo(df, code);
    return hn::BitCast(DU(), code);
  }

  // Zero is 0.
  static HWY_INLINE V16 Join(VU even, VU odd) {
    const VU low = hn::And(even, hn::Set(DU(), 0xFFFF));
    return hn::BitCast(D16(), hn::Or(low, hn::ShiftLeft<16>(odd)));
  }

  static HWY_INLINE V16 Stored(V16 codes, V16 /*signs*/, V16 /*nonzero*/) {
    const D16 d16;
    if constexpr (kCodeBits == 8) return codes;
    return hn::And(hn::Add(codes, hn::Set(d16, 8)), hn::Set(d16, 15));
  }
};

// The codes of magnitudes in a format with `kMantissa` bits whose smallest normal number has the
// exponent field `kSmallest`, rounded to nearest, ties to even. The sum with a power of two leaves
// the bits of a step at the end.
template <int kMantissa, std::uint32_t kSmallest>
struct Rounder {
  static constexpr int kDropped = 23 - kMantissa;
  static constexpr std::uint32_t kBias = kSmallest << kMantissa;

  // The code plus kBias.
  static HWY_INLINE VU CodeOf(VF magnitude, VU& field, VF& made) {
    const DF df;
    const DU du;
    field = hn::Max(hn::And(hn::BitCast(du, magnitude), hn::Set(du, 0x7F800000U)),
                    hn::Set(du, kSmallest << 23));
    const VU magic = hn::Add(field, hn::Set(du, static_cast<std::uint32_t>(kDropped) << 23));
    const VF sum = hn::Add(magnitude, hn::BitCast(df, magic));
    made = hn::Sub(sum, hn::BitCast(df, magic));
    const VU steps = hn::Sub(hn::BitCast(du, sum), magic);
    // Each exponent has as many codes as the mantissa has values.
    return hn::Add(steps, hn::ShiftRight<kDropped>(field));
  }
};

template <typename Coder>
HWY_INLINE V16 JoinBiased(VU even, VU odd) {
  const D16 d16;
  const V16 both = hn::BitCast(d16, hn::Or(even, hn::ShiftLeft<16>(odd)));
  return hn::Sub(both, hn::Set(d16, static_cast<std::uint16_t>(Coder::kBias)));
}

// kDown: of two codes that are equally near the smaller, and minus for zeros of either sign.
template <template <typename> class Quotient, bool kDown>
struct E2M1Coder {
  using Round = Rounder<1, 127>;
  static constexpr unsigned kBits = 4;
  static constexpr std::uint32_t kBias = Round::kBias;

  template <typename Values>
  static HWY_INLINE void Load(const std::byte* from, VF& even, VF& odd, V16& signs) {
    Values::Load(from, even, odd, signs);
  }

  template <typename Values>
  static HWY_INLINE VU CodeOf(VF value, VF scale, VF reciprocal, VF& made) {
    const DF df;
    const DU du;
    const VF quotient = hn::Min(Quotient<Values>::Of(value, scale, reciprocal), hn::Set(df, 6));
    VU field;
    const VU code = Round::CodeOf(quotient, field, made);
    if constexpr (!kDown) return code;
    // Half a step is a quarter of the power of two below the quotient.
    const VF half = hn::BitCast(df, hn::Sub(field, hn::Set(du, 2U << 23)));
    const auto was_tie = hn::Eq(hn::Sub(made, quotient), half);
    made = hn::Sub(made, hn::IfThenElseZero(was_tie, hn::Add(half, half)));
    // A true lane is −1.
    return hn::Add(code, hn::BitCast(du, hn::VecFromMask(df, was_tie)));
  }

  static HWY_INLINE V16 Join(VU even, VU odd) { return JoinBiased<E2M1Coder>(even, odd); }

  static HWY_INLINE V16 Stored(V16 codes, V16 signs, V16 nonzero) {
    const V16 minus = hn::ShiftRight<4>(signs);
    if constexpr (kDown) {
      const V16 zero = hn::ShiftLeft<3>(hn::Xor(nonzero, hn::Set(D16(), 1)));
      return hn::Or(codes, hn::Or(minus, zero));
    }
    return hn::Or(codes, hn::And(minus, hn::ShiftLeft<3>(nonzero)));
  }
};

struct E4M3Coder {
  using Round = Rounder<3, 121>;
  static constexpr unsigned kBits = 8;
  static constexpr std::uint32_t kBias = Round::kBias;

  template <typename Values>
  static HWY_INLINE void Load(const std::byte* from, VF& even, VF& odd, V16& signs) {
    Values::Load(from, even, odd, signs);
  }

  template <typename Values>
  static HWY_INLINE VU CodeOf(VF value, VF /*scale*/, VF reciprocal, VF& made) {
    VU field;
    return Round::CodeOf(hn::Min(hn::Mul(value, reciprocal), hn::Set(DF(), 448)), field, made);
  }

  static HWY_INLINE V16 Join(VU even, VU odd) { return JoinBiased<E4M3Coder>(even, odd); }

  static HWY_INLINE V16 Stored(V16 codes, V16 signs, V16 /*nonzero*/) {
    return hn::Or(codes, signs);
  }
};

// The quotient by a power of two, whose reciprocal is exact.
template <typename Values>
struct DivideByPower {
  static HWY_INLINE VF Of(VF value, VF /*power*/, VF reciprocal) {
    return hn::Mul(value, reciprocal);
  }
};

// Writes the codes of a unit, packed.
template <unsigned kBits>
HWY_INLINE void StoreCodes(V16 codes, std::uint8_t* to) {
  if constexpr (kBits == 8) {
    const DC dc;
    hn::StoreU(hn::TruncateTo(dc, codes), dc, to);
  } else {
    // The odd value's code goes to the upper half of the even one's byte.
    const hn::Rebind<std::uint8_t, DU> d8;
    const VU pairs = hn::BitCast(DU(), codes);
    hn::StoreU(hn::TruncateTo(d8, hn::Or(pairs, hn::ShiftRight<12>(pairs))), d8, to);
  }
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard

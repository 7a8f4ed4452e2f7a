// The vector kernels that make floats of codes and scales, compiled once for each instruction set.
//
// The bits of an FP8 magnitude, moved to the place of a float's, are the float but for the bias of
// the exponent. A subnormal one gets the exponent of the smallest normal number, whose hidden one
// is taken off again, so that no operand is a subnormal float, which some processors take long for.
// The sixteen values of codes of four bits are in one or two vectors.
#include <array>
#include <cstddef>
#include <cstdint>

#include "quant/codec.h"
#include "quant/codes_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/code_floats_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_CODE_FLOATS_KERNEL_ONCE
#define DSV3_QUANT_CODE_FLOATS_KERNEL_ONCE
namespace dsv3::quant::internal {

// What a run of codes has in common.
struct RunScale {
  float zero = 0;
  float scale = 0;
};

// How the bits of an FP8 format are shared out.
struct E4M3Bits {
  static constexpr int kMantissa = 3;
  static constexpr int kBias = 7;
  static constexpr int kFirstSpecial = 0x7F;  // magnitude
};
struct E5M2Bits {
  static constexpr int kMantissa = 2;
  static constexpr int kBias = 15;
  static constexpr int kFirstSpecial = 0x7C;
};

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_CODE_FLOATS_KERNEL_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Each function makes floats of the first codes of a run, in whole vectors, and returns of how
// many.

#if HWY_TARGET == HWY_SCALAR

template <typename Bits>
std::size_t ScaleFp8(const std::uint8_t* /*codes*/, std::size_t /*count*/, RunScale /*run*/,
                     float* /*out*/) {
  return 0;
}

std::size_t ScaleI8(const std::uint8_t* /*codes*/, std::size_t /*count*/, RunScale /*run*/,
                    float* /*out*/) {
  return 0;
}

std::size_t ScaleHalves(const std::uint8_t* /*codes*/, std::size_t /*count*/,
                        const float* /*values*/, RunScale /*run*/, float* /*out*/) {
  return 0;
}

#else

// At most as many lanes as codes of four bits have values.
using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
using D8 = hn::Rebind<std::uint8_t, DF>;

template <typename Bits>
HWY_INLINE hn::Vec<DF> ValuesOfFp8(hn::Vec<DI> codes) {
  const DF df;
  const DI di;
  constexpr int kFloatMantissa = 23;
  constexpr int kFloatBias = 127;
  constexpr int kInfinity = 0xFF << kFloatMantissa;
  const auto magnitude = hn::And(codes, hn::Set(di, 0x7F));
  const auto sign = hn::ShiftLeft<24>(hn::And(codes, hn::Set(di, 0x80)));
  const auto bits = hn::ShiftLeft<kFloatMantissa - Bits::kMantissa>(magnitude);
  const auto normal = hn::Add(bits, hn::Set(di, (kFloatBias - Bits::kBias) << kFloatMantissa));
  const auto least = hn::Set(di, (kFloatBias - Bits::kBias + 1) << kFloatMantissa);
  const auto subnormal =
      hn::BitCast(di, hn::Sub(hn::BitCast(df, hn::Add(bits, least)), hn::BitCast(df, least)));
  const auto finite =
      hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 1 << Bits::kMantissa)), subnormal, normal);
  const auto special = hn::Gt(magnitude, hn::Set(di, Bits::kFirstSpecial - 1));
  const auto value = hn::IfThenElse(special, hn::Or(bits, hn::Set(di, kInfinity)), finite);
  return hn::BitCast(df, hn::Or(value, sign));
}

HWY_INLINE hn::Vec<DF> Scaled(hn::Vec<DF> values, RunScale run) {
  const DF df;
  return hn::Mul(hn::Sub(values, hn::Set(df, run.zero)), hn::Set(df, run.scale));
}

template <typename Bits>
HWY_INLINE std::size_t ScaleFp8(const std::uint8_t* HWY_RESTRICT codes, std::size_t count,
                                RunScale run, float* HWY_RESTRICT out) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t done = 0;
  for (; count - done >= lanes; done += lanes) {
    const auto wide = hn::PromoteTo(DI(), hn::LoadU(D8(), codes + done));
    hn::StoreU(Scaled(ValuesOfFp8<Bits>(wide), run), df, out + done);
  }
  return done;
}

HWY_INLINE std::size_t ScaleI8(const std::uint8_t* HWY_RESTRICT codes, std::size_t count,
                               RunScale run, float* HWY_RESTRICT out) {
  const DF df;
  const DI di;
  const hn::Rebind<std::int8_t, DF> d8;
  const std::size_t lanes = hn::Lanes(df);
  const auto* const from = reinterpret_cast<const std::int8_t*>(codes);
  std::size_t done = 0;
  for (; count - done >= lanes; done += lanes) {
    const auto value = hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(d8, from + done)));
    hn::StoreU(Scaled(value, run), df, out + done);
  }
  return done;
}

// Two codes a byte, from the lower half of the first byte on.
HWY_INLINE std::size_t ScaleHalves(const std::uint8_t* HWY_RESTRICT codes, std::size_t count,
                                   const float* HWY_RESTRICT values, RunScale run,
                                   float* HWY_RESTRICT out) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  if (lanes < 8) return 0;
  const DI di;
  const D8 d8;
  const hn::Half<D8> d_both;
  const hn::Rebind<std::uint16_t, decltype(d_both)> d_pair;
  const auto first = Scaled(hn::LoadU(df, values), run);
  const auto second = lanes == 16 ? first : Scaled(hn::LoadU(df, values + 8), run);
  std::size_t done = 0;
  for (; count - done >= lanes; done += lanes) {
    const auto both = hn::PromoteTo(d_pair, hn::LoadU(d_both, codes + done / 2));
    const auto split =
        hn::Or(hn::And(both, hn::Set(d_pair, 0x0F)), hn::ShiftLeft<8>(hn::ShiftRight<4>(both)));
    const auto index = hn::PromoteTo(di, hn::BitCast(d8, split));
    if (lanes == 16) {
      hn::StoreU(hn::TableLookupLanes(first, hn::IndicesFromVec(df, index)), df, out + done);
      continue;
    }
    const auto place = hn::IndicesFromVec(df, hn::And(index, hn::Set(di, 7)));
    const auto upper = hn::RebindMask(df, hn::Gt(index, hn::Set(di, 7)));
    hn::StoreU(hn::IfThenElse(upper, hn::TableLookupLanes(second, place),
                              hn::TableLookupLanes(first, place)),
               df, out + done);
  }
  return done;
}

#endif  // HWY_TARGET == HWY_SCALAR

void RunToFloat(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements,
                float* HWY_RESTRICT out) {
  const float* const values = CodeBits(format) == 4 ? ValuesOfCodes(format) : nullptr;
  std::uint64_t element = 0;
  for (ScaleRuns runs(in, elements); runs.size() != 0; runs.Next()) {
    const RunScale run{ZeroOf(in, runs.scale()), in.scales[runs.scale()]};
    const auto one = [&](std::uint64_t at) {
      return (DecodeCode(format, CodeAt(format, in, at)) - run.zero) * run.scale;
    };
    const std::uint64_t end = element + runs.size();
    // The upper half of a byte whose lower half belongs to the run before.
    if (values != nullptr && element % 2 != 0) {
      out[element] = one(element);
      ++element;
    }
    const std::uint8_t* const codes = in.codes.data() + (values != nullptr ? element / 2 : element);
    const auto count = static_cast<std::size_t>(end - element);
    switch (format) {
      case CodeFormat::kE4M3:
        element += ScaleFp8<E4M3Bits>(codes, count, run, out + element);
        break;
      case CodeFormat::kE5M2:
        element += ScaleFp8<E5M2Bits>(codes, count, run, out + element);
        break;
      case CodeFormat::kI8:
        element += ScaleI8(codes, count, run, out + element);
        break;
      default:
        element += ScaleHalves(codes, count, values, run, out + element);
    }
    for (; element < end; ++element) out[element] = one(element);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(RunToFloat);

void DequantizeCodesToFloat(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements,
                            float* out) {
  HWY_DYNAMIC_DISPATCH(RunToFloat)(format, in, elements, out);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

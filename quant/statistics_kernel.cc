// The vector kernels of statistics.h, compiled once for each instruction set.
//
// E4M3 codes are decoded as halves: moved right by one, a code in the upper byte is the F16 number
// that is 2^8 times smaller, subnormals included, and the factor of 2^8 goes into the scale. E5M2
// codes are upper halves of F16 numbers as they are. The cases that this gets wrong (NaN codes,
// infinities, extreme scales) are found on the way and computed again by the scalar definition.
//
// Compiled without contraction of products and sums, so that all instruction sets round alike.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "quant/codec.h"
#include "quant/statistics_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/statistics_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_STATISTICS_KERNEL_ONCE
#define DSV3_QUANT_STATISTICS_KERNEL_ONCE
namespace dsv3::quant::internal {

inline std::uint16_t LoadU16(const std::byte* at) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(at[0]) |
                                    std::to_integer<unsigned>(at[1]) << 8);
}

inline void DecodeF16Scalar(const std::byte* bytes, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = DecodeF16(LoadU16(bytes + 2 * i));
}

inline void DecodeBF16Scalar(const std::byte* bytes, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = DecodeBF16(LoadU16(bytes + 2 * i));
}

inline void DecodeRunScalar(Fp8Format format, const std::uint8_t* codes, std::size_t count,
                            float scale, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = DecodeCode(format, codes[i]) * scale;
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_STATISTICS_KERNEL_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

void DecodeBF16s(const std::byte* bytes, std::size_t count, float* out) {
  DecodeBF16Scalar(bytes, count, out);
}

void DecodeF16s(const std::byte* bytes, std::size_t count, float* out) {
  DecodeF16Scalar(bytes, count, out);
}

void DecodeRun(Fp8Format format, const std::uint8_t* codes, std::size_t count, float scale,
               float* out) {
  DecodeRunScalar(format, codes, count, scale, out);
}

FloatStatistics Measure(std::span<const float> values) { return MeasureFloatsScalar(values); }

bool Equal(const float* a, const float* b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (a[i] != b[i] && (a[i] == a[i] || b[i] == b[i])) return false;
  }
  return true;
}

#else

// At most kLanes floats in any case.
using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
using D32 = hn::RebindToUnsigned<DF>;
using D16 = hn::Rebind<std::uint16_t, DF>;
using DHalf = hn::Rebind<hwy::float16_t, DF>;
using D8 = hn::Rebind<std::uint8_t, DF>;
using D16Bytes = hn::Repartition<std::uint8_t, D16>;

HWY_INLINE hn::Vec<D16> LoadHalves(const std::byte* at) {
  return hn::BitCast(D16(), hn::LoadU(D16Bytes(), reinterpret_cast<const std::uint8_t*>(at)));
}

void DecodeBF16s(const std::byte* bytes, std::size_t count, float* HWY_RESTRICT out) {
  const DF df;
  const D32 d32;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(d32, LoadHalves(bytes + 2 * i)));
    hn::StoreU(hn::BitCast(df, wide), df, out + i);
  }
  DecodeBF16Scalar(bytes + 2 * i, count - i, out + i);
}

void DecodeF16s(const std::byte* bytes, std::size_t count, float* HWY_RESTRICT out) {
  const DF df;
  const D16 d16;
  const std::size_t lanes = hn::Lanes(df);
  const auto infinity = hn::Set(d16, 0x7C00);
  auto special = hn::Zero(d16);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto halves = LoadHalves(bytes + 2 * i);
    special = hn::Max(special, hn::And(halves, hn::Set(d16, 0x7FFF)));
    hn::StoreU(hn::PromoteTo(df, hn::BitCast(DHalf(), halves)), df, out + i);
  }
  if (!hn::AllTrue(d16, hn::Lt(special, infinity))) i = 0;
  DecodeF16Scalar(bytes + 2 * i, count - i, out + i);
}

// The codes of one block.
template <bool kE4M3>
HWY_INLINE void DecodeRunOf(const std::uint8_t* HWY_RESTRICT codes, std::size_t count, float scale,
                            float* HWY_RESTRICT out) {
  constexpr Fp8Format kFormat = kE4M3 ? Fp8Format::kE4M3 : Fp8Format::kE5M2;
  // The smallest code that halves do not stand for: E4M3's NaN, E5M2's infinity.
  constexpr std::uint8_t kSpecial = kE4M3 ? 0x7F : 0x7C;
  if (!IsPlainScale(scale)) return DecodeRunScalar(kFormat, codes, count, scale, out);
  const DF df;
  const D16 d16;
  const D8 d8;
  const hn::RebindToSigned<D16> di16;
  const std::size_t lanes = hn::Lanes(df);
  const auto factor = hn::Set(df, kE4M3 ? scale * 256 : scale);
  auto largest = hn::Zero(d16);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto upper = hn::ShiftLeft<8>(hn::PromoteTo(d16, hn::LoadU(d8, codes + i)));
    largest = hn::Max(largest, hn::And(upper, hn::Set(d16, 0x7F00)));
    auto half = upper;
    if constexpr (kE4M3) {
      const auto moved = hn::BitCast(d16, hn::ShiftRight<1>(hn::BitCast(di16, upper)));
      half = hn::And(moved, hn::Set(d16, 0xBF80));
    }
    hn::StoreU(hn::Mul(hn::PromoteTo(df, hn::BitCast(DHalf(), half)), factor), df, out + i);
  }
  if (!hn::AllTrue(d16, hn::Lt(largest, hn::Set(d16, kSpecial << 8)))) i = 0;
  DecodeRunScalar(kFormat, codes + i, count - i, scale, out + i);
}

void DecodeRun(Fp8Format format, const std::uint8_t* codes, std::size_t count, float scale,
               float* out) {
  if (format == Fp8Format::kE4M3) return DecodeRunOf<true>(codes, count, scale, out);
  DecodeRunOf<false>(codes, count, scale, out);
}

using V32 = hn::Vec<D32>;
using VI = hn::Vec<DI>;

// The squares of a whole number of kLanes values, summed by lanes; takes part in `largest`, of
// magnitudes, and with kCompare in `differing`, the bits in which values differ from `first`.
template <bool kCompare>
HWY_INLINE void SumSquares(const float* HWY_RESTRICT from, std::size_t count, V32 first,
                           VI& largest, V32& differing, float* HWY_RESTRICT sums) {
  const DF df;
  const DI di;
  const D32 d32;
  const std::size_t lanes = hn::Lanes(df);
  const auto magnitude = hn::Set(d32, ~kFloatSign);
  for (std::size_t lane = 0; lane < kLanes; lane += 2 * lanes) {
    auto sum0 = hn::Zero(df);
    auto sum1 = hn::Zero(df);
    auto largest0 = largest;
    auto largest1 = largest;
    for (std::size_t i = lane; i < count; i += kLanes) {
      const auto x0 = hn::LoadU(df, from + i);
      const auto x1 = hn::LoadU(df, from + i + lanes);
      const auto bits0 = hn::BitCast(d32, x0);
      const auto bits1 = hn::BitCast(d32, x1);
      largest0 = hn::Max(largest0, hn::BitCast(di, hn::And(bits0, magnitude)));
      largest1 = hn::Max(largest1, hn::BitCast(di, hn::And(bits1, magnitude)));
      sum0 = hn::Add(sum0, hn::Mul(x0, x0));
      sum1 = hn::Add(sum1, hn::Mul(x1, x1));
      if constexpr (kCompare) {
        differing = hn::Or(differing, hn::Xor(bits0, first));
        differing = hn::Or(differing, hn::Xor(bits1, first));
      }
    }
    largest = hn::Max(largest0, largest1);
    hn::Store(sum0, df, sums + lane);
    hn::Store(sum1, df, sums + lane + lanes);
  }
}

FloatStatistics Measure(std::span<const float> values) {
  const D32 d32;
  const DI di;
  const hn::CappedTag<double, 8> dd;
  const hn::Rebind<float, decltype(dd)> narrow;
  FloatStatistics result;
  result.values = values.size();
  if (values.empty()) return result;
  result.first = values[0];
  const auto first_bits = std::bit_cast<std::uint32_t>(values[0]);
  const auto first = hn::Set(d32, first_bits);
  auto largest = hn::Zero(di);  // no magnitude is negative
  auto differing = hn::Zero(d32);
  std::uint32_t tail_largest = 0;
  HWY_ALIGN std::array<double, kLanes> totals{};
  HWY_ALIGN std::array<float, kLanes> sums{};

  for (std::size_t begin = 0; begin < values.size(); begin += kGroup) {
    const std::size_t size = std::min(kGroup, values.size() - begin);
    const std::size_t whole = size / kLanes * kLanes;
    const float* from = values.data() + begin;
    if (result.constant) {
      SumSquares<true>(from, whole, first, largest, differing, sums.data());
      result.constant = hn::AllTrue(d32, hn::Eq(differing, hn::Zero(d32)));
    } else {
      SumSquares<false>(from, whole, first, largest, differing, sums.data());
    }
    for (std::size_t i = whole; i < size; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(from[i]);
      tail_largest = std::max(tail_largest, bits & ~kFloatSign);
      result.constant = result.constant && bits == first_bits;
      const float square = from[i] * from[i];
      sums[i % kLanes] += square;
    }
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(dd)) {
      const auto wide = hn::PromoteTo(dd, hn::Load(narrow, sums.data() + lane));
      hn::Store(hn::Add(hn::Load(dd, totals.data() + lane), wide), dd, totals.data() + lane);
    }
  }
  const auto vectors_largest = static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(di, largest)));
  const std::uint32_t absmax_bits = std::max(vectors_largest, tail_largest);
  if (!IsTame(absmax_bits)) return MeasureWild(values);
  result.absmax = std::bit_cast<float>(absmax_bits);
  for (const double total : totals) result.sum_squares += total;
  return result;
}

bool Equal(const float* a, const float* b, std::size_t count) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::LoadU(df, a + i);
    const auto y = hn::LoadU(df, b + i);
    const auto both_nan = hn::And(hn::IsNaN(x), hn::IsNaN(y));
    if (!hn::AllTrue(df, hn::Or(hn::Eq(x, y), both_nan))) return false;
  }
  for (; i < count; ++i) {
    if (a[i] != b[i] && (a[i] == a[i] || b[i] == b[i])) return false;
  }
  return true;
}

#endif  // HWY_TARGET == HWY_SCALAR

void DecodeScaled(Fp8Format format, const ScaledRow& row, float* out) {
  const std::size_t size = row.codes.size();
  std::uint64_t left = row.block_cols - row.column % row.block_cols;
  const float* scale = row.scales;
  for (std::size_t begin = 0; begin < size; ++scale) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left, size - begin));
    DecodeRun(format, row.codes.data() + begin, count, *scale, out + begin);
    begin += count;
    left = row.block_cols;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(DecodeBF16s);
HWY_EXPORT(DecodeF16s);
HWY_EXPORT(DecodeScaled);
HWY_EXPORT(Measure);
HWY_EXPORT(Equal);

void DecodeBF16Best(const std::byte* bytes, std::size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(DecodeBF16s)(bytes, count, out);
}

void DecodeF16Best(const std::byte* bytes, std::size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(DecodeF16s)(bytes, count, out);
}

void DecodeScaledBest(Fp8Format format, const ScaledRow& row, float* out) {
  HWY_DYNAMIC_DISPATCH(DecodeScaled)(format, row, out);
}

FloatStatistics MeasureBest(std::span<const float> values) {
  return HWY_DYNAMIC_DISPATCH(Measure)(values);
}

bool EqualBest(const float* a, const float* b, std::size_t count) {
  return HWY_DYNAMIC_DISPATCH(Equal)(a, b, count);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

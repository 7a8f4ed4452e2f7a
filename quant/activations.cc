// The vector kernels of activations.h, compiled once for each instruction set.
#include "quant/activations.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "quant/codec.h"
#include "quant/rounding.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/activations.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_ACTIVATIONS_ONCE
#define DSV3_QUANT_ACTIVATIONS_ONCE
namespace dsv3::quant::internal {

// At most so many floats in a vector.
inline constexpr std::size_t kMostLanes = 16;

// Of a group whose absmax has these bits; greater bits than infinity's are a NaN.
inline float GroupScale(std::uint32_t absmax_bits, bool ue8m0) {
  const float scale = std::bit_cast<float>(absmax_bits) / kE4M3Max;
  if (scale == 0) return 1;
  if (!ue8m0 || !std::isfinite(scale)) return scale;
  int exponent = 0;
  const float fraction = std::frexp(scale, &exponent);  // from 0.5 to below 1
  return std::ldexp(1.0F, fraction == 0.5F ? exponent - 1 : exponent);
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_ACTIVATIONS_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kMostLanes>;
using D32 = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;

// Calls change(vector) for all values in order; the last vector is filled with zeros.
template <typename Change>
HWY_INLINE void ForEachVector(float* HWY_RESTRICT values, std::size_t count, const Change& change) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(change(hn::LoadU(df, values + i)), df, values + i);
  }
  if (i == count) return;
  HWY_ALIGN std::array<float, kMostLanes> last{};
  std::copy(values + i, values + count, last.begin());
  hn::Store(change(hn::Load(df, last.data())), df, last.data());
  std::copy_n(last.begin(), count - i, values + i);
}

// The nearest E4M3 number of a value within ±448 or NaN.
HWY_INLINE VF RoundToE4M3(VF value) {
  const DF df;
  const D32 d32;
  const auto magnitude = hn::Abs(value);
  // Normal numbers keep 3 of 23 bits; subnormals are multiples of 2^-9, which is the unit in the
  // last place of floats from 2^14 to 2^15.
  const auto bits = hn::BitCast(d32, magnitude);
  const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(d32, 1));
  const auto up = hn::Add(hn::Add(bits, odd), hn::Set(d32, 0x7FFFF));
  const auto normal = hn::BitCast(df, hn::And(up, hn::Set(d32, 0xFFF00000U)));
  const auto unit = hn::Set(df, 0x1p14F);
  const auto subnormal = hn::Sub(hn::Add(magnitude, unit), unit);
  const auto rounded = hn::IfThenElse(hn::Lt(magnitude, hn::Set(df, 0x1p-6F)), subnormal, normal);
  return hn::IfThenElse(hn::IsNaN(value), value, hn::CopySignToAbs(rounded, value));
}

HWY_INLINE void QuantizeGroup(float* values, std::size_t count, bool ue8m0, float* scale) {
  const DF df;
  const DI di;
  auto largest = hn::Zero(di);
  std::size_t i = 0;
  const std::size_t lanes = hn::Lanes(df);
  for (; i + lanes <= count; i += lanes) {
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(hn::LoadU(df, values + i))));
  }
  auto absmax = static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(di, largest)));
  for (; i < count; ++i) {
    absmax = std::max(absmax, std::bit_cast<std::uint32_t>(values[i]) & ~kFloatSign);
  }
  *scale = GroupScale(absmax, ue8m0);
  const auto divisor = hn::Set(df, *scale);
  const auto most = hn::Set(df, kE4M3Max);
  ForEachVector(values, count, [&](VF x) HWY_ATTR {
    const auto ratio = hn::Div(x, divisor);
    const auto beyond = hn::Gt(hn::Abs(ratio), most);
    return RoundToE4M3(hn::IfThenElse(beyond, hn::CopySignToAbs(most, ratio), ratio));
  });
}

void QuantizeRow(std::span<float> row, bool ue8m0, float* scales) {
  for (std::size_t i = 0; i < row.size(); i += kActivationGroup, ++scales) {
    QuantizeGroup(row.data() + i, std::min(kActivationGroup, row.size() - i), ue8m0, scales);
  }
}

void RoundAll(float* values, std::size_t count) {
  const DF df;
  const D32 d32;
  ForEachVector(values, count, [&](VF x) HWY_ATTR {
    const auto bits = hn::BitCast(d32, x);
    // Half a unit in the last place, less one where the result would be even already.
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
    const auto up = hn::Add(bits, hn::Add(hn::Set(d32, 0x7FFF), odd));
    const auto rounded = hn::BitCast(df, hn::And(up, hn::Set(d32, 0xFFFF0000U)));
    return hn::IfThenElse(hn::IsNaN(x), x, rounded);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {
HWY_EXPORT(QuantizeRow);
HWY_EXPORT(RoundAll);

namespace {

void QuantizeGroupScalar(std::span<float> group, bool ue8m0, float* scale) {
  std::uint32_t absmax = 0;
  for (const float x : group) {
    absmax = std::max(absmax, std::bit_cast<std::uint32_t>(x) & ~kFloatSign);
  }
  *scale = GroupScale(absmax, ue8m0);
  for (float& x : group) {
    const float ratio = x / *scale;
    const float limited = std::abs(ratio) > kE4M3Max ? std::copysign(kE4M3Max, ratio) : ratio;
    x = DecodeE4M3(EncodeE4M3(limited));
  }
}

}  // namespace
}  // namespace internal

void QuantizeActivations(std::span<float> row, bool ue8m0, float* scales) {
  HWY_DYNAMIC_DISPATCH(internal::QuantizeRow)(row, ue8m0, scales);
}

void RoundToBF16(std::span<float> values) {
  HWY_DYNAMIC_DISPATCH(internal::RoundAll)(values.data(), values.size());
}

void QuantizeActivationsScalar(std::span<float> row, bool ue8m0, float* scales) {
  for (std::size_t i = 0; i < row.size(); i += kActivationGroup, ++scales) {
    internal::QuantizeGroupScalar(row.subspan(i, std::min(kActivationGroup, row.size() - i)), ue8m0,
                                  scales);
  }
}

void RoundToBF16Scalar(std::span<float> values) {
  for (float& x : values) x = DecodeBF16(EncodeBF16(x));
}

}  // namespace dsv3::quant
#endif  // HWY_ONCE

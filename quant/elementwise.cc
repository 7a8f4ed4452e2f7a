// The vector kernels of elementwise.h, compiled once for each instruction set.
//
// The exponential is written here, so that its bits do not depend on a library's version:
// e^x = 2^k · e^r with k the integer nearest to x / ln 2, and e^r by its Taylor series, whose rest
// is below 6e-9 for |r| <= ln 2 / 2. Error below 1 unit in the last place.
#include "quant/elementwise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/elementwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_ELEMENTWISE_ONCE
#define DSV3_QUANT_ELEMENTWISE_ONCE
namespace dsv3::quant::internal {

// A multiple of the number of floats in a vector.
inline constexpr std::size_t kSumLanes = 16;

// Beyond these, e^x is 0 and infinity.
inline constexpr float kExpLowest = -104.0F;
inline constexpr float kExpHighest = 89.0F;
inline constexpr float kLog2E = 0x1.715476p+0F;
// ln 2 in two parts; products of the first with integers below 2^8 are exact.
inline constexpr float kLn2High = 0x1.62e4p-1F;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20F;
// To add and subtract it rounds to an integer.
inline constexpr float kRounder = 0x1.8p23F;
// 1 / 7!, 1 / 6!, …, 1 / 2!.
inline constexpr std::array<float, 6> kInverseFactorials = {1.0F / 5040, 1.0F / 720, 1.0F / 120,
                                                            1.0F / 24,   1.0F / 6,   1.0F / 2};

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline float AddLanes(const std::array<double, kSumLanes>& lanes) {
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return static_cast<float>(sum);
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_ELEMENTWISE_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

void Silu(const float* gate, const float* up, float* out, std::size_t n) {
  SiluProductScalar(gate, up, out, n);
}

void Softmax(float* scores, std::size_t n) { SoftmaxScalar({scores, n}); }

#else

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kSumLanes>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using Buffer = std::array<float, kSumLanes>;

// 2^k for an exponent within those of normal numbers.
HWY_INLINE VF PowerOfTwo(hn::Vec<DI> k) {
  return hn::BitCast(DF(), hn::ShiftLeft<23>(hn::Add(k, hn::Set(DI(), 127))));
}

HWY_INLINE VF Exp(VF x) {
  const DF df;
  const DI di;
  // Comparisons, not Min and Max, so that NaNs stay.
  x = hn::IfThenElse(hn::Gt(x, hn::Set(df, kExpHighest)), hn::Set(df, kExpHighest), x);
  x = hn::IfThenElse(hn::Lt(x, hn::Set(df, kExpLowest)), hn::Set(df, kExpLowest), x);
  const auto rounder = hn::Set(df, kRounder);
  const auto shifted = hn::MulAdd(x, hn::Set(df, kLog2E), rounder);
  const auto k = hn::Sub(shifted, rounder);
  auto r = hn::NegMulAdd(k, hn::Set(df, kLn2High), x);
  r = hn::NegMulAdd(k, hn::Set(df, kLn2Low), r);
  auto tail = hn::Set(df, kInverseFactorials[0]);
  for (std::size_t i = 1; i < kInverseFactorials.size(); ++i) {
    tail = hn::MulAdd(tail, r, hn::Set(df, kInverseFactorials[i]));
  }
  const auto power = hn::Add(hn::MulAdd(hn::Mul(r, r), tail, r), hn::Set(df, 1.0F));
  // k is in the last bits of `shifted`. A conversion of a NaN to an integer has no defined value;
  // here a NaN gives some integer, and `power` stays a NaN. In two steps, because 2^k itself may
  // be no normal number.
  const auto exponent = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, rounder));
  const auto half = hn::ShiftRight<1>(exponent);
  return hn::Mul(hn::Mul(power, PowerOfTwo(half)), PowerOfTwo(hn::Sub(exponent, half)));
}

HWY_INLINE VF SiluTimes(VF gate, VF up) {
  const auto one = hn::Set(DF(), 1.0F);
  return hn::Mul(hn::Div(gate, hn::Add(one, Exp(hn::Neg(gate)))), up);
}

void Silu(const float* gate, const float* up, float* out, std::size_t n) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(SiluTimes(hn::LoadU(df, gate + i), hn::LoadU(df, up + i)), df, out + i);
  }
  if (i == n) return;
  HWY_ALIGN Buffer last_gate{};
  HWY_ALIGN Buffer last_up{};
  std::copy(gate + i, gate + n, last_gate.begin());
  std::copy(up + i, up + n, last_up.begin());
  hn::Store(SiluTimes(hn::Load(df, last_gate.data()), hn::Load(df, last_up.data())), df,
            last_gate.data());
  std::copy_n(last_gate.begin(), n - i, out + i);
}

// Adds each value of a vector to its lane.
HWY_INLINE void AddWide(const float* HWY_RESTRICT values, double* HWY_RESTRICT sums) {
  const hn::CappedTag<double, kSumLanes / 2> dd;
  const hn::Rebind<float, decltype(dd)> narrow;
  const std::size_t lanes = hn::Lanes(DF());
  for (std::size_t i = 0; i < lanes; i += hn::Lanes(dd)) {
    const auto wide = hn::PromoteTo(dd, hn::LoadU(narrow, values + i));
    hn::StoreU(hn::Add(hn::LoadU(dd, sums + i), wide), dd, sums + i);
  }
}

float Largest(const float* scores, std::size_t n) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  auto largest = hn::Set(df, kMinusInfinity);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, hn::LoadU(df, scores + i));
  float result = hn::GetLane(hn::MaxOfLanes(df, largest));
  for (; i < n; ++i) result = std::max(result, scores[i]);
  return result;
}

void Softmax(float* scores, std::size_t n) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  const auto largest = hn::Set(df, Largest(scores, n));
  HWY_ALIGN std::array<double, kSumLanes> sums{};
  HWY_ALIGN Buffer last;
  last.fill(kMinusInfinity);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(Exp(hn::Sub(hn::LoadU(df, scores + i), largest)), df, scores + i);
    AddWide(scores + i, sums.data() + i % kSumLanes);
  }
  const std::size_t whole = i;
  if (whole < n) {
    std::copy(scores + whole, scores + n, last.begin());
    // What fills the vector counts for nothing, unless all is NaN.
    hn::Store(Exp(hn::Sub(hn::Load(df, last.data()), largest)), df, last.data());
    std::fill(last.begin() + static_cast<std::ptrdiff_t>(n - whole), last.end(), 0.0F);
    AddWide(last.data(), sums.data() + whole % kSumLanes);
  }
  const auto sum = hn::Set(df, AddLanes(sums));
  for (i = 0; i < whole; i += lanes) {
    hn::StoreU(hn::Div(hn::LoadU(df, scores + i), sum), df, scores + i);
  }
  if (whole == n) return;
  hn::Store(hn::Div(hn::Load(df, last.data()), sum), df, last.data());
  std::copy_n(last.begin(), n - whole, scores + whole);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {
HWY_EXPORT(Silu);
HWY_EXPORT(Softmax);

namespace {

float ExpScalar(float x) {
  if (std::isnan(x)) return x;
  x = std::clamp(x, kExpLowest, kExpHighest);
  const float k = std::fma(x, kLog2E, kRounder) - kRounder;
  const float r = std::fma(-k, kLn2Low, std::fma(-k, kLn2High, x));
  float tail = kInverseFactorials[0];
  for (std::size_t i = 1; i < kInverseFactorials.size(); ++i) {
    tail = std::fma(tail, r, kInverseFactorials[i]);
  }
  return std::ldexp(std::fma(r * r, tail, r) + 1.0F, static_cast<int>(k));
}

}  // namespace
}  // namespace internal

void SiluProduct(const float* gate, const float* up, float* out, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(internal::Silu)(gate, up, out, n);
}

void SoftmaxInPlace(std::span<float> scores) {
  HWY_DYNAMIC_DISPATCH(internal::Softmax)(scores.data(), scores.size());
}

void SiluProductScalar(const float* gate, const float* up, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = gate[i] / (1.0F + internal::ExpScalar(-gate[i])) * up[i];
  }
}

void SoftmaxScalar(std::span<float> scores) {
  float largest = internal::kMinusInfinity;
  for (const float score : scores) largest = std::max(largest, score);
  std::array<double, internal::kSumLanes> sums{};
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] = internal::ExpScalar(scores[i] - largest);
    sums[i % internal::kSumLanes] += static_cast<double>(scores[i]);
  }
  const float sum = internal::AddLanes(sums);
  for (float& score : scores) score /= sum;
}

}  // namespace dsv3::quant
#endif  // HWY_ONCE

// The vector kernel of exponentials.h, compiled once for each instruction set.
//
// e^x = 2^k · e^r with k the integer nearest to x / ln 2, and e^r by its Taylor series, whose rest
// is below 5e-18 for |r| <= ln 2 / 2.
#include "quant/exponentials.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/exponentials.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

// A namespace of its own: elementwise.cc has constants of these names for floats.
#ifndef DSV3_QUANT_EXPONENTIALS_ONCE
#define DSV3_QUANT_EXPONENTIALS_ONCE
namespace dsv3::quant::exponentials {

inline constexpr std::size_t kSumLanes = 16;
// At most so many doubles in a vector.
inline constexpr std::size_t kMostLanes = 8;

// Below this, e^x is 0.
inline constexpr double kExpLowest = -746;
inline constexpr double kLog2E = 0x1.71547652b82fep+0;
// ln 2 in two parts; products of the first with integers below 2^11 are exact.
inline constexpr double kLn2High = 0x1.62e42fefap-1;
inline constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
// To add and subtract it rounds to an integer, which its last bits hold in between.
inline constexpr double kRounder = 0x1.8p52;
// 1 / 13!, 1 / 12!, …, 1 / 2!.
inline constexpr std::array<double, 12> kInverseFactorials = {
    1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
    1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2};

}  // namespace dsv3::quant::exponentials
#endif  // DSV3_QUANT_EXPONENTIALS_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::exponentials {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DD = hn::CappedTag<double, kMostLanes>;
using DI = hn::RebindToSigned<DD>;
using DF = hn::Rebind<float, DD>;
using VD = hn::Vec<DD>;

// 2^k for an exponent within those of normal numbers.
HWY_INLINE VD PowerOfTwo(hn::Vec<DI> k) {
  return hn::BitCast(DD(), hn::ShiftLeft<52>(hn::Add(k, hn::Set(DI(), 1023))));
}

HWY_INLINE VD Exp(VD x) {
  const DD dd;
  const DI di;
  // A comparison, not Max, so that NaNs stay.
  x = hn::IfThenElse(hn::Lt(x, hn::Set(dd, kExpLowest)), hn::Set(dd, kExpLowest), x);
  const auto rounder = hn::Set(dd, kRounder);
  const auto shifted = hn::MulAdd(x, hn::Set(dd, kLog2E), rounder);
  const auto k = hn::Sub(shifted, rounder);
  auto r = hn::NegMulAdd(k, hn::Set(dd, kLn2High), x);
  r = hn::NegMulAdd(k, hn::Set(dd, kLn2Low), r);
  auto tail = hn::Set(dd, kInverseFactorials[0]);
  for (std::size_t i = 1; i < kInverseFactorials.size(); ++i) {
    tail = hn::MulAdd(tail, r, hn::Set(dd, kInverseFactorials[i]));
  }
  const auto power = hn::Add(hn::MulAdd(hn::Mul(r, r), tail, r), hn::Set(dd, 1.0));
  // In two steps: 2^k itself may be no normal number.
  const auto exponent = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, rounder));
  const auto half = hn::ShiftRight<1>(exponent);
  return hn::Mul(hn::Mul(power, PowerOfTwo(half)), PowerOfTwo(hn::Sub(exponent, half)));
}

HWY_INLINE VD ExpOf(const float* HWY_RESTRICT x, VD shift) {
  return Exp(hn::Sub(hn::PromoteTo(DD(), hn::LoadU(DF(), x)), shift));
}

void ExponentialsOf(const float* HWY_RESTRICT x, std::size_t count, double shift,
                    double* HWY_RESTRICT out) {
  const DD dd;
  const std::size_t lanes = hn::Lanes(dd);
  const auto shifts = hn::Set(dd, shift);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(ExpOf(x + i, shifts), dd, out + i);
  if (i == count) return;
  std::array<float, kMostLanes> last{};
  std::array<double, kMostLanes> results;
  std::copy(x + i, x + count, last.begin());
  hn::StoreU(ExpOf(last.data(), shifts), dd, results.data());
  std::copy_n(results.begin(), count - i, out + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::exponentials
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace exponentials {
HWY_EXPORT(ExponentialsOf);

namespace {

// Where one target alone is compiled, the macro names its namespace, which lies in this one.
void CallExponentials(const float* x, std::size_t count, double shift, double* out) {
  HWY_DYNAMIC_DISPATCH(ExponentialsOf)(x, count, shift, out);
}

}  // namespace
}  // namespace exponentials

void Exponentials(std::span<const float> x, double shift, double* out) {
  exponentials::CallExponentials(x.data(), x.size(), shift, out);
}

double SumOfExponentials(std::span<const float> x, double shift) {
  constexpr std::size_t kChunk = 32 * exponentials::kSumLanes;
  std::array<double, kChunk> chunk;
  std::array<double, exponentials::kSumLanes> sums{};
  for (std::size_t done = 0; done < x.size(); done += kChunk) {
    const std::size_t count = std::min(kChunk, x.size() - done);
    Exponentials(x.subspan(done, count), shift, chunk.data());
    std::fill(chunk.begin() + static_cast<std::ptrdiff_t>(count), chunk.end(), 0.0);
    for (std::size_t i = 0; i < count; i += exponentials::kSumLanes) {
      for (std::size_t lane = 0; lane < exponentials::kSumLanes; ++lane)
        sums[lane] += chunk[i + lane];
    }
  }
  double sum = 0;
  for (const double lane : sums) sum += lane;
  return sum;
}

}  // namespace dsv3::quant
#endif  // HWY_ONCE

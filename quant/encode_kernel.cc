// The vector kernels that all rules of encode.h share, compiled once for each instruction set.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "quant/encode_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/encode_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_ENCODE_KERNEL_ONCE
#define DSV3_QUANT_ENCODE_KERNEL_ONCE
namespace dsv3::quant::internal {

inline constexpr std::size_t kEncodeLanes = 16;  // at most, in a vector of floats
// Elements whose errors are added in float.
inline constexpr std::uint64_t kErrorRun = 512;
// Sums of squares outside of these may have lost squares that are no normal floats.
inline constexpr float kLeastSum = 1e-25F;
inline constexpr float kMostSum = 1e35F;

// What the errors of a run come to.
struct RunErrors {
  float sum_squared_error = 0;
  float sum_squares = 0;
  float max_abs_error = 0;
  std::uint32_t flushed = 0;
};

inline void AddError(float value, float decoded, RunErrors& errors) {
  const float error = value - decoded;
  errors.sum_squared_error += error * error;
  errors.sum_squares += value * value;
  errors.max_abs_error = std::max(errors.max_abs_error, std::abs(error));
  errors.flushed += value != 0 && decoded == 0 ? 1 : 0;
}

inline void AddSquares(const float* values, const float* decoded, std::uint64_t count,
                       Quality& quality) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const double value = values[i];
    const double error = value - static_cast<double>(decoded[i]);
    quality.sum_squared_error += error * error;
    quality.sum_squares += value * value;
  }
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_ENCODE_KERNEL_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

std::size_t LargestOfVectors(const float* /*values*/, std::size_t /*count*/,
                             std::uint32_t* /*largest*/) {
  return 0;
}

std::size_t PackVectors(const std::uint8_t* /*codes*/, std::size_t /*count*/,
                        std::uint8_t* /*packed*/) {
  return 0;
}

std::size_t AddVectorErrors(const float* /*values*/, const float* /*decoded*/,
                            std::size_t /*count*/, RunErrors& /*errors*/) {
  return 0;
}

#else

// These three return how many elements they took: all whole vectors.
HWY_INLINE std::size_t LargestOfVectors(const float* HWY_RESTRICT values, std::size_t count,
                                        std::uint32_t* HWY_RESTRICT largest) {
  const hn::CappedTag<float, kEncodeLanes> df;
  const hn::RebindToSigned<decltype(df)> di;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  if (count < lanes) return 0;
  auto most = hn::Zero(di);
  for (; i + lanes <= count; i += lanes) {
    most = hn::Max(most, hn::BitCast(di, hn::Abs(hn::LoadU(df, values + i))));
  }
  HWY_ALIGN std::array<std::int32_t, kEncodeLanes> each{};
  hn::Store(most, di, each.data());
  *largest = static_cast<std::uint32_t>(*std::max_element(each.begin(), each.end()));
  return i;
}

HWY_INLINE std::size_t PackVectors(const std::uint8_t* HWY_RESTRICT codes, std::size_t count,
                                   std::uint8_t* HWY_RESTRICT packed) {
  const hn::CappedTag<std::uint16_t, 2 * kEncodeLanes> d16;
  const hn::RebindToSigned<decltype(d16)> di16;
  const hn::Repartition<std::uint8_t, decltype(d16)> d8;
  const hn::Rebind<std::uint8_t, decltype(d16)> half;
  const std::size_t lanes = hn::Lanes(d8);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto pairs = hn::BitCast(d16, hn::LoadU(d8, codes + i));
    const auto both = hn::Or(pairs, hn::ShiftRight<4>(pairs));
    const auto byte = hn::BitCast(di16, hn::And(both, hn::Set(d16, 0xFF)));
    hn::StoreU(hn::DemoteTo(half, byte), half, packed + i / 2);
  }
  return i;
}

HWY_INLINE std::size_t AddVectorErrors(const float* HWY_RESTRICT values,
                                       const float* HWY_RESTRICT decoded, std::size_t count,
                                       RunErrors& errors) {
  const hn::CappedTag<float, kEncodeLanes> df;
  const hn::RebindToSigned<decltype(df)> di;
  const std::size_t lanes = hn::Lanes(df);
  if (count < lanes) return 0;
  const auto zero = hn::Zero(df);
  auto squared_error = zero;
  auto squares = zero;
  auto largest = zero;
  auto flushed = hn::Zero(di);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto value = hn::LoadU(df, values + i);
    const auto made = hn::LoadU(df, decoded + i);
    const auto error = hn::Sub(value, made);
    squared_error = hn::MulAdd(error, error, squared_error);
    squares = hn::MulAdd(value, value, squares);
    largest = hn::Max(largest, hn::Abs(error));
    const auto to_zero = hn::AndNot(hn::Eq(value, zero), hn::Eq(made, zero));
    // A true lane is −1.
    flushed = hn::Sub(flushed, hn::BitCast(di, hn::VecFromMask(df, to_zero)));
  }
  errors.sum_squared_error += hn::GetLane(hn::SumOfLanes(df, squared_error));
  errors.sum_squares += hn::GetLane(hn::SumOfLanes(df, squares));
  errors.max_abs_error = std::max(errors.max_abs_error, hn::GetLane(hn::MaxOfLanes(df, largest)));
  errors.flushed += static_cast<std::uint32_t>(hn::GetLane(hn::SumOfLanes(di, flushed)));
  return i;
}

#endif  // HWY_TARGET == HWY_SCALAR

void RaiseAmaxBest(const float* HWY_RESTRICT row, std::uint64_t cols, std::uint64_t block_cols,
                   std::uint32_t* HWY_RESTRICT amax) {
  for (std::uint64_t begin = 0; begin < cols; begin += block_cols, ++amax) {
    const std::uint64_t count = std::min(block_cols, cols - begin);
    std::uint32_t largest = 0;
    for (std::size_t i = LargestOfVectors(row + begin, count, &largest); i < count; ++i) {
      largest = std::max(largest, std::bit_cast<std::uint32_t>(row[begin + i]) & 0x7FFF'FFFFU);
    }
    *amax = std::max(*amax, largest);
  }
}

void PackHalvesBest(const std::uint8_t* HWY_RESTRICT codes, std::size_t count,
                    std::uint8_t* HWY_RESTRICT packed) {
  for (std::size_t i = PackVectors(codes, count, packed); i < count; i += 2) {
    packed[i / 2] = static_cast<std::uint8_t>(codes[i] | codes[i + 1] << 4);
  }
}

void AddErrorsBest(const float* HWY_RESTRICT values, const float* HWY_RESTRICT decoded,
                   std::uint64_t count, Quality& quality) {
  for (std::uint64_t at = 0; at < count; at += kErrorRun) {
    const std::uint64_t run = std::min(kErrorRun, count - at);
    RunErrors errors;
    for (std::size_t i = AddVectorErrors(values + at, decoded + at, run, errors); i < run; ++i) {
      AddError(values[at + i], decoded[at + i], errors);
    }
    if (HWY_LIKELY(errors.sum_squares > kLeastSum && errors.sum_squares < kMostSum)) {
      quality.sum_squared_error += static_cast<double>(errors.sum_squared_error);
      quality.sum_squares += static_cast<double>(errors.sum_squares);
    } else {
      AddSquares(values + at, decoded + at, run, quality);
    }
    quality.max_abs_error =
        std::max(quality.max_abs_error, static_cast<double>(errors.max_abs_error));
    quality.flushed_to_zero += errors.flushed;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(RaiseAmaxBest);
HWY_EXPORT(PackHalvesBest);
HWY_EXPORT(AddErrorsBest);

void RaiseAmax(const float* row, std::uint64_t cols, std::uint64_t block_cols,
               std::uint32_t* amax) {
  HWY_DYNAMIC_DISPATCH(RaiseAmaxBest)(row, cols, block_cols, amax);
}

void PackHalves(const std::uint8_t* codes, std::size_t count, std::uint8_t* packed) {
  HWY_DYNAMIC_DISPATCH(PackHalvesBest)(codes, count, packed);
}

void AddErrors(const float* values, const float* decoded, std::uint64_t count, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(AddErrorsBest)(values, decoded, count, quality);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

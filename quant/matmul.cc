// The vector kernels of matmul.h, compiled once for each instruction set.
//
// A tile of rows × tokens keeps its sums in registers, 16 lanes each, while it walks along the
// columns; BF16 weights are widened in registers. All tiles use one step, and so give equal sums.
#include "quant/matmul.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "quant/codec.h"

// Arrays of vectors need vectors of a size that the compiler knows.
#include "hwy/detect_targets.h"
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/matmul.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef DSV3_QUANT_MATMUL_ONCE
#define DSV3_QUANT_MATMUL_ONCE
namespace dsv3::quant::internal {

inline constexpr std::size_t kSumLanes = 16;

// Weights that stay in the second-level cache while the tokens pass.
inline constexpr std::size_t kPanelBytes = std::size_t{128} << 10;

// A page: no machine reads ahead beyond it.
inline constexpr std::size_t kLongRowBytes = 4096;

inline float Widen(float value) { return value; }
inline float Widen(std::uint16_t bits) { return DecodeBF16(bits); }

// The last elements of a row as floats, filled with zeros.
template <typename T>
void CopyRagged(const T* from, std::size_t count, float* to) {
  for (std::size_t i = 0; i < kSumLanes; ++i) to[i] = i < count ? Widen(from[i]) : 0.0F;
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_MATMUL_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

template <typename Weight>
void Multiply(const Weight* weights, std::size_t rows, std::size_t cols, const Activations& x,
              float* out, std::size_t out_stride) {
  std::vector<float> row(cols);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t k = 0; k < cols; ++k) row[k] = Widen(weights[r * cols + k]);
    for (std::size_t t = 0; t < x.tokens; ++t) {
      out[t * out_stride + r] = DotScalar(row.data(), x.values + t * x.stride, cols);
    }
  }
}

void AddScaledOf(float factor, const float* x, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) out[i] = std::fma(factor, x[i], out[i]);
}

void AddScaledRowsOf(const float* factors, std::size_t count, const float* x, std::size_t stride,
                     float* out, std::size_t n) {
  for (std::size_t r = 0; r < count; ++r) AddScaledOf(factors[r], x + r * stride, out, n);
}

#else

using DF = hn::CappedTag<float, kSumLanes>;
using D4 = hn::CappedTag<float, 4>;
using VF = hn::Vec<DF>;
using V4 = hn::Vec<D4>;

// Vectors of one sum.
constexpr std::size_t kLanesOfVector = hn::MaxLanes(DF());
constexpr std::size_t kParts = kSumLanes / kLanesOfVector;

// Tiles that fit the registers: 32 of AVX-512 and NEON, 16 of the others.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr std::size_t kTileRows = kParts == 1 ? 4 : 2;
constexpr std::size_t kTileTokens = kParts == 1 ? 6 : 3;
constexpr std::size_t kSingleRows = 8 / kParts;
#else
constexpr std::size_t kTileRows = kParts == 2 ? 2 : 1;
constexpr std::size_t kTileTokens = 3;
constexpr std::size_t kSingleRows = kParts == 2 ? 4 : 2;
#endif

template <std::size_t kRows, std::size_t kTokens>
struct Sums {
  // Written out so that it is compiled for the instruction set of its vectors.
  HWY_INLINE Sums() {}  // NOLINT(modernize-use-equals-default)
  VF of[kRows][kTokens][kParts];
};

// Loads what several multiply-adds take. gcc would let each of two read it from memory, and two
// loads for each pair of multiply-adds are all that an AVX2 machine can do.
HWY_INLINE VF LoadOnce(const float* at) {
  VF loaded = hn::LoadU(DF(), at);
#if HWY_TARGET == HWY_AVX2
  __asm__("" : "+x"(loaded.raw));
#endif
  return loaded;
}

HWY_INLINE VF LoadWide(const float* at) { return hn::LoadU(DF(), at); }

HWY_INLINE VF LoadWide(const std::uint16_t* at) {
#if HWY_TARGET == HWY_AVX2
  // The 8 elements in both halves, moved to the upper bytes of a float each: one shuffle, where
  // widening and a shift keep the units busy that multiply.
  const hn::Repartition<std::uint8_t, DF> d8;
  constexpr std::uint8_t kZero = 0x80;
  HWY_ALIGN static constexpr std::uint8_t kPlaces[32] = {
      kZero, kZero, 0, 1, kZero, kZero, 2,  3,  kZero, kZero, 4,  5,  kZero, kZero, 6,  7,
      kZero, kZero, 8, 9, kZero, kZero, 10, 11, kZero, kZero, 12, 13, kZero, kZero, 14, 15};
  const auto twice = hn::LoadDup128(hn::Repartition<std::uint16_t, DF>(), at);
  return hn::BitCast(DF(), hn::TableLookupBytesOr0(hn::BitCast(d8, twice), hn::Load(d8, kPlaces)));
#else
  const hn::Rebind<std::uint16_t, DF> d16;
  const hn::RebindToUnsigned<DF> d32;
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, at))));
#endif
}

// The next 16 elements of each sum.
template <std::size_t kRows, std::size_t kTokens, typename Weight>
HWY_INLINE void Step(const Weight* HWY_RESTRICT weights, std::size_t weights_stride,
                     const float* HWY_RESTRICT x, std::size_t x_stride,
                     Sums<kRows, kTokens>& sums) {
  for (std::size_t part = 0; part < kParts; ++part) {
    const std::size_t at = part * kLanesOfVector;
    VF wide[kRows];
    for (std::size_t r = 0; r < kRows; ++r) wide[r] = LoadWide(weights + r * weights_stride + at);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const VF activation = LoadOnce(x + t * x_stride + at);
      for (std::size_t r = 0; r < kRows; ++r) {
        sums.of[r][t][part] = hn::MulAdd(wide[r], activation, sums.of[r][t][part]);
      }
    }
  }
}

// The first two levels of the tree.
template <std::size_t kCount>
HWY_INLINE V4 AddToFour(const VF (&parts)[kCount]) {
  if constexpr (kCount == 4) {
    return hn::Add(hn::Add(parts[0], parts[2]), hn::Add(parts[1], parts[3]));
  } else {
    const hn::CappedTag<float, 8> d8;
    const auto add_halves = [&](const auto& eight) {
      return hn::Add(hn::LowerHalf(D4(), eight), hn::UpperHalf(D4(), eight));
    };
    if constexpr (kCount == 2) {
      return add_halves(hn::Add(parts[0], parts[1]));
    } else {
      return add_halves(hn::Add(hn::LowerHalf(d8, parts[0]), hn::UpperHalf(d8, parts[0])));
    }
  }
}

// The last two levels, for four sums at once.
HWY_INLINE V4 AddFours(V4 a, V4 b, V4 c, V4 d) {
  const D4 d4;
  const V4 ab = hn::Add(hn::ConcatLowerLower(d4, b, a), hn::ConcatUpperUpper(d4, b, a));
  const V4 cd = hn::Add(hn::ConcatLowerLower(d4, d, c), hn::ConcatUpperUpper(d4, d, c));
  return hn::Add(hn::ConcatEven(d4, cd, ab), hn::ConcatOdd(d4, cd, ab));
}

// Four sums go through the tree together; where the tile has no four more, the last one fills up.
template <std::size_t kRows, std::size_t kTokens>
HWY_INLINE void StoreSums(const Sums<kRows, kTokens>& sums, float* HWY_RESTRICT out,
                          std::size_t out_stride) {
  constexpr std::size_t kCount = kRows * kTokens;
  const auto four_of = [&](std::size_t i) HWY_ATTR {
    const std::size_t one = std::min(i, kCount - 1);
    return AddToFour(sums.of[one % kRows][one / kRows]);
  };
  for (std::size_t i = 0; i < kCount; i += 4) {
    const V4 four = AddFours(four_of(i), four_of(i + 1), four_of(i + 2), four_of(i + 3));
    if constexpr (kRows % 4 == 0) {
      hn::StoreU(four, D4(), out + i / kRows * out_stride + i % kRows);
    } else {
      HWY_ALIGN std::array<float, 4> each;
      hn::Store(four, D4(), each.data());
      for (std::size_t j = i; j < std::min(i + 4, kCount); ++j) {
        out[j / kRows * out_stride + j % kRows] = each[j - i];
      }
    }
  }
}

template <std::size_t kRows, std::size_t kTokens, typename Weight>
HWY_NOINLINE void MultiplyTile(const Weight* HWY_RESTRICT weights, std::size_t cols,
                               const float* HWY_RESTRICT x, std::size_t x_stride,
                               float* HWY_RESTRICT out, std::size_t out_stride) {
  Sums<kRows, kTokens> sums;
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t t = 0; t < kTokens; ++t) {
      for (std::size_t part = 0; part < kParts; ++part) sums.of[r][t][part] = hn::Zero(DF());
    }
  }
  const std::size_t whole = cols / kSumLanes * kSumLanes;
  for (std::size_t k = 0; k < whole; k += kSumLanes) {
    Step(weights + k, cols, x + k, x_stride, sums);
  }
  if (whole < cols) {
    HWY_ALIGN std::array<float, kRows * kSumLanes> last_weights;
    HWY_ALIGN std::array<float, kTokens * kSumLanes> last_x;
    for (std::size_t r = 0; r < kRows; ++r) {
      CopyRagged(weights + r * cols + whole, cols - whole, last_weights.data() + r * kSumLanes);
    }
    for (std::size_t t = 0; t < kTokens; ++t) {
      CopyRagged(x + t * x_stride + whole, cols - whole, last_x.data() + t * kSumLanes);
    }
    Step(last_weights.data(), kSumLanes, last_x.data(), kSumLanes, sums);
  }
  StoreSums(sums, out, out_stride);
}

// A tile of `tokens` tokens, kTokens at most.
template <std::size_t kRows, std::size_t kTokens, typename Weight>
HWY_INLINE void MultiplyTokens(const Weight* weights, std::size_t cols, const float* x,
                               std::size_t tokens, std::size_t x_stride, float* out,
                               std::size_t out_stride) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      MultiplyTokens<kRows, kTokens - 1>(weights, cols, x, tokens, x_stride, out, out_stride);
      return;
    }
  }
  MultiplyTile<kRows, kTokens>(weights, cols, x, x_stride, out, out_stride);
}

// One token. Rows side by side share the loads of the token. Short rows one after another make one
// long stream, which the machine reads ahead best.
template <typename Weight>
void MultiplyToken(const Weight* weights, std::size_t rows, std::size_t cols, const float* x,
                   float* out) {
  std::size_t r = 0;
  for (; cols * sizeof(Weight) >= kLongRowBytes && r + kSingleRows <= rows; r += kSingleRows) {
    MultiplyTile<kSingleRows, 1>(weights + r * cols, cols, x, 0, out + r, 0);
  }
  for (; r < rows; ++r) MultiplyTile<1, 1>(weights + r * cols, cols, x, 0, out + r, 0);
}

template <typename Weight>
void Multiply(const Weight* weights, std::size_t rows, std::size_t cols, const Activations& x,
              float* out, std::size_t out_stride) {
  if (x.tokens == 1) {
    MultiplyToken(weights, rows, cols, x.values, out);
    return;
  }
  // The tokens of a tile stay in the first-level cache while the rows of a panel pass, and the
  // panel stays in the second-level cache while the tokens pass.
  const std::size_t fit = kPanelBytes / (sizeof(Weight) * std::max<std::size_t>(cols, 1));
  const std::size_t panel = std::max<std::size_t>(fit / kTileRows, 1) * kTileRows;
  for (std::size_t first = 0; first < rows; first += panel) {
    const std::size_t end = std::min(first + panel, rows);
    for (std::size_t t = 0; t < x.tokens; t += kTileTokens) {
      const std::size_t tokens = std::min(kTileTokens, x.tokens - t);
      const float* const from = x.values + t * x.stride;
      float* const to = out + t * out_stride;
      std::size_t r = first;
      for (; r + kTileRows <= end; r += kTileRows) {
        MultiplyTokens<kTileRows, kTileTokens>(weights + r * cols, cols, from, tokens, x.stride,
                                               to + r, out_stride);
      }
      for (; r < end; ++r) {
        MultiplyTokens<1, kTileTokens>(weights + r * cols, cols, from, tokens, x.stride, to + r,
                                       out_stride);
      }
    }
  }
}

void AddScaledOf(float factor, const float* HWY_RESTRICT x, float* HWY_RESTRICT out,
                 std::size_t n) {
  const DF df;
  const VF factors = hn::Set(df, factor);
  std::size_t i = 0;
  for (; i + kLanesOfVector <= n; i += kLanesOfVector) {
    hn::StoreU(hn::MulAdd(factors, hn::LoadU(df, x + i), hn::LoadU(df, out + i)), df, out + i);
  }
  if (i == n) return;
  HWY_ALIGN std::array<float, kLanesOfVector> last_x{};
  HWY_ALIGN std::array<float, kLanesOfVector> last_out{};
  std::copy(x + i, x + n, last_x.begin());
  std::copy(out + i, out + n, last_out.begin());
  hn::Store(hn::MulAdd(factors, hn::Load(df, last_x.data()), hn::Load(df, last_out.data())), df,
            last_out.data());
  std::copy_n(last_out.begin(), n - i, out + i);
}

// A strip of sums stays in registers while the rows pass.
template <std::size_t kVectors>
HWY_INLINE void AddStrip(const float* HWY_RESTRICT factors, std::size_t count,
                         const float* HWY_RESTRICT x, std::size_t stride, float* HWY_RESTRICT out) {
  const DF df;
  VF sums[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) sums[i] = hn::LoadU(df, out + i * kLanesOfVector);
  for (std::size_t r = 0; r < count; ++r) {
    const VF factor = hn::Set(df, factors[r]);
    const float* const row = x + r * stride;
    for (std::size_t i = 0; i < kVectors; ++i) {
      sums[i] = hn::MulAdd(factor, hn::LoadU(df, row + i * kLanesOfVector), sums[i]);
    }
  }
  for (std::size_t i = 0; i < kVectors; ++i) hn::StoreU(sums[i], df, out + i * kLanesOfVector);
}

void AddScaledRowsOf(const float* factors, std::size_t count, const float* x, std::size_t stride,
                     float* out, std::size_t n) {
  if (count == 0) return;
  constexpr std::size_t kVectors = 8;
  constexpr std::size_t kStrip = kVectors * kLanesOfVector;
  std::size_t i = 0;
  for (; i + kStrip <= n; i += kStrip) AddStrip<kVectors>(factors, count, x + i, stride, out + i);
  for (; i + kLanesOfVector <= n; i += kLanesOfVector) {
    AddStrip<1>(factors, count, x + i, stride, out + i);
  }
  if (i == n) return;
  for (std::size_t r = 0; r < count; ++r) {
    AddScaledOf(factors[r], x + r * stride + i, out + i, n - i);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

void MultiplyBF16Of(const std::uint16_t* weights, std::size_t rows, std::size_t cols,
                    const Activations& x, float* out, std::size_t out_stride) {
  Multiply(weights, rows, cols, x, out, out_stride);
}

void MultiplyF32Of(const float* weights, std::size_t rows, std::size_t cols, const Activations& x,
                   float* out, std::size_t out_stride) {
  Multiply(weights, rows, cols, x, out, out_stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {
HWY_EXPORT(MultiplyBF16Of);
HWY_EXPORT(MultiplyF32Of);
HWY_EXPORT(AddScaledOf);
HWY_EXPORT(AddScaledRowsOf);

// Where one target alone is compiled, the macro names its namespace, which lies in this one.
namespace {

void CallMultiplyBF16(const std::uint16_t* weights, std::size_t rows, std::size_t cols,
                      const Activations& x, float* out, std::size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(MultiplyBF16Of)(weights, rows, cols, x, out, out_stride);
}

void CallMultiplyF32(const float* weights, std::size_t rows, std::size_t cols, const Activations& x,
                     float* out, std::size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(MultiplyF32Of)(weights, rows, cols, x, out, out_stride);
}

void CallAddScaled(float factor, const float* x, float* out, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(AddScaledOf)(factor, x, out, n);
}

void CallAddScaledRows(const float* factors, std::size_t count, const float* x, std::size_t stride,
                       float* out, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(AddScaledRowsOf)(factors, count, x, stride, out, n);
}

}  // namespace
}  // namespace internal

void MultiplyBF16(const std::uint16_t* weights, std::size_t rows, std::size_t cols,
                  const Activations& x, float* out, std::size_t out_stride) {
  internal::CallMultiplyBF16(weights, rows, cols, x, out, out_stride);
}

void MultiplyF32(const float* weights, std::size_t rows, std::size_t cols, const Activations& x,
                 float* out, std::size_t out_stride) {
  internal::CallMultiplyF32(weights, rows, cols, x, out, out_stride);
}

float Dot(const float* a, const float* b, std::size_t n) {
  float sum = 0;
  MultiplyF32(a, 1, n, {.values = b, .tokens = 1, .stride = n}, &sum, 1);
  return sum;
}

void AddScaled(float factor, const float* x, float* out, std::size_t n) {
  internal::CallAddScaled(factor, x, out, n);
}

void AddScaledRows(const float* factors, std::size_t count, const float* x, std::size_t stride,
                   float* out, std::size_t n) {
  internal::CallAddScaledRows(factors, count, x, stride, out, n);
}

float DotScalar(const float* a, const float* b, std::size_t n) {
  std::array<float, internal::kSumLanes> lanes{};
  const std::size_t filled =
      (n + internal::kSumLanes - 1) / internal::kSumLanes * internal::kSumLanes;
  for (std::size_t k = 0; k < filled; ++k) {
    float& lane = lanes[k % internal::kSumLanes];
    lane = k < n ? std::fma(a[k], b[k], lane) : std::fma(0.0F, 0.0F, lane);
  }
  for (std::size_t half = internal::kSumLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace dsv3::quant
#endif  // HWY_ONCE

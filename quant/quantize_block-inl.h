// Rectangles of one block by arithmetic, for each instruction set; included once for each by the
// files that use foreach_target.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/quantize_rule.h"
#include "quant/quantize_tile.h"

#if defined(DSV3_QUANT_QUANTIZE_BLOCK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_QUANTIZE_BLOCK_INL_H
#undef DSV3_QUANT_QUANTIZE_BLOCK_INL_H
#else
#define DSV3_QUANT_QUANTIZE_BLOCK_INL_H
#endif

#include "hwy/highway.h"
#include "quant/quantize_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

// Sums for the quality, in lanes of even and of odd elements.
struct LaneSums {
  HWY_ALIGN float error_squares[2 * hn::MaxLanes(DF())];
  HWY_ALIGN float squares[2 * hn::MaxLanes(DF())];
  HWY_ALIGN float largest_error[2 * hn::MaxLanes(DF())];
  std::size_t units = 0;  // added since the last flush
  std::uint64_t zero_codes = 0;
  std::uint64_t zero_values = 0;
};

HWY_INLINE void Clear(LaneSums& sums) {
  const DF df;
  for (float* const part : {sums.error_squares, sums.squares, sums.largest_error}) {
    hn::Store(hn::Zero(df), df, part);
    hn::Store(hn::Zero(df), df, part + hn::Lanes(df));
  }
}

// Sums of so many units are added up in float before they go into a double.
constexpr std::size_t kFlushUnits = 64;

HWY_INLINE void Flush(VF& even, VF& odd, double& total) {
  const DF df;
  total += static_cast<double>(hn::GetLane(hn::SumOfLanes(df, hn::Add(even, odd))));
  even = hn::Zero(df);
  odd = hn::Zero(df);
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

template <typename Values, typename Quotient>
HWY_NOINLINE void EncodeBlock(const QuantizeTile& tile, const BlockRule& rule,
                              std::uint8_t* HWY_RESTRICT codes, std::uint64_t codes_stride,
                              LaneSums& sums, Quality& quality) {
  const DF df;
  const D16 d16;
  const DC dc;
  const std::size_t lanes = hn::Lanes(df);
  const std::size_t unit = hn::Lanes(d16);
  const VF operand = hn::Set(df, rule.operand);
  const VF reciprocal = hn::Set(df, 1 / rule.operand);
  const VF scale = hn::Set(df, rule.scale);
  VF errors0 = hn::Load(df, sums.error_squares);
  VF errors1 = hn::Load(df, sums.error_squares + lanes);
  VF squares0 = hn::Load(df, sums.squares);
  VF squares1 = hn::Load(df, sums.squares + lanes);
  VF largest0 = hn::Load(df, sums.largest_error);
  VF largest1 = hn::Load(df, sums.largest_error + lanes);
  std::size_t units = sums.units;
  std::uint64_t zero_codes = 0;
  std::uint64_t zero_values = 0;
  const auto end = static_cast<std::size_t>(tile.width);
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const auto row_at = static_cast<std::size_t>(row * tile.stride) * Values::kBytes;
    const std::byte* HWY_RESTRICT values = tile.values + row_at;
    std::uint8_t* HWY_RESTRICT to = codes + row * codes_stride;
    std::size_t i = 0;
    while (i + unit <= end) {
      const std::size_t stop = std::min(end - unit + 1, i + kFlushUnits * unit);
      units += (stop - i - 1) / unit + 1;
      for (; i < stop; i += unit) {
        VF even;
        VF odd;
        V16 signs;
        FetchAhead(values + i * Values::kBytes, tile.ahead);
        Values::Load(values + i * Values::kBytes, even, odd, signs);
        const V16 unit_codes =
            EncodeUnit<Quotient>(even, odd, signs, operand, reciprocal, scale, errors0, errors1,
                                 squares0, squares1, largest0, largest1, zero_codes, zero_values);
        hn::StoreU(hn::TruncateTo(dc, unit_codes), dc, to + i);
      }
      if (units >= kFlushUnits) {
        Flush(errors0, errors1, quality.sum_squared_error);
        Flush(squares0, squares1, quality.sum_squares);
        units = 0;
      }
    }
    if (i < end) {
      // Zeros behind the last value count as zero codes and as zero values.
      HWY_ALIGN std::byte part[hn::MaxLanes(d16) * Values::kBytes] = {};
      HWY_ALIGN std::uint8_t results[hn::MaxLanes(d16)];
      std::memcpy(part, values + i * Values::kBytes, (end - i) * Values::kBytes);
      VF even;
      VF odd;
      V16 signs;
      Values::Load(part, even, odd, signs);
      const V16 unit_codes =
          EncodeUnit<Quotient>(even, odd, signs, operand, reciprocal, scale, errors0, errors1,
                               squares0, squares1, largest0, largest1, zero_codes, zero_values);
      hn::StoreU(hn::TruncateTo(dc, unit_codes), dc, results);
      std::memcpy(to + i, results, end - i);
      ++units;
    }
  }
  hn::Store(errors0, df, sums.error_squares);
  hn::Store(errors1, df, sums.error_squares + lanes);
  hn::Store(squares0, df, sums.squares);
  hn::Store(squares1, df, sums.squares + lanes);
  hn::Store(largest0, df, sums.largest_error);
  hn::Store(largest1, df, sums.largest_error + lanes);
  sums.units = units;
  sums.zero_codes += zero_codes;
  sums.zero_values += zero_values;
}

// Encodes a tile of one block. Adds all but the elements to `sums` and `quality`.
template <typename Values>
HWY_NOINLINE void EncodeByRule(const QuantizeTile& tile, const BlockRule& rule, std::uint8_t* codes,
                               std::uint64_t codes_stride, LaneSums& sums, Quality& quality) {
  if (!rule.regular) {
    for (std::uint64_t row = 0; row < tile.rows; ++row) {
      EncodeRunScalar(rule, Values::kFormat, tile.values + row * tile.stride * Values::kBytes,
                      static_cast<std::size_t>(tile.width), codes + row * codes_stride, quality);
    }
  } else if (rule.operation == BlockRule::Operation::kMultiply) {
    EncodeBlock<Values, Multiply>(tile, rule, codes, codes_stride, sums, quality);
  } else if (rule.own == FloatFormat::kF32) {
    EncodeBlock<Values, Divide<Values>>(tile, rule, codes, codes_stride, sums, quality);
  } else {
    EncodeBlock<Values, DivideInOwn<Values>>(tile, rule, codes, codes_stride, sums, quality);
  }
}

HWY_INLINE void AddTo(Quality& quality, const LaneSums& sums) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  VF errors0 = hn::Load(df, sums.error_squares);
  VF errors1 = hn::Load(df, sums.error_squares + lanes);
  VF squares0 = hn::Load(df, sums.squares);
  VF squares1 = hn::Load(df, sums.squares + lanes);
  Flush(errors0, errors1, quality.sum_squared_error);
  Flush(squares0, squares1, quality.sum_squares);
  const VF largest =
      hn::Max(hn::Load(df, sums.largest_error), hn::Load(df, sums.largest_error + lanes));
  quality.max_abs_error = std::max(quality.max_abs_error,
                                   static_cast<double>(hn::GetLane(hn::MaxOfLanes(df, largest))));
  quality.flushed_to_zero += sums.zero_codes - sums.zero_values;
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard

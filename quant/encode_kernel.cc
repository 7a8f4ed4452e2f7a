// The vector kernels that make the codes of encode.h's rules, compiled once for each instruction
// set.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/encode_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/encode_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "quant/encode_lanes-inl.h"
#include "quant/quantize_lanes-inl.h"
#include "quant/stream_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

// No kernels: every block goes by the rules' meaning.
#define DSV3_QUANT_NO_RUN(name) \
  void name(const EncodeRun& /*run*/, std::uint8_t* /*codes*/, Quality& /*quality*/) {}
DSV3_QUANT_NO_RUN(OwnInt8)
DSV3_QUANT_NO_RUN(OwnInt4)
DSV3_QUANT_NO_RUN(FloatInt8)
DSV3_QUANT_NO_RUN(E2M1)
DSV3_QUANT_NO_RUN(PowerE2M1)
DSV3_QUANT_NO_RUN(PowerE2M1Down)
DSV3_QUANT_NO_RUN(PowerE4M3)
#undef DSV3_QUANT_NO_RUN

BlockScales Reciprocals(const float* /*amax*/, const float* /*scales*/, std::size_t count,
                        float /*most*/, float* reciprocals) {
  std::fill_n(reciprocals, count, 0.0F);
  return {};
}

#else

// Units whose sums are added up in float, and in 16 bits, before they are widened.
constexpr std::size_t kWidenUnits = 64;

// Adds up 16-bit counts, and clears them.
HWY_INLINE void Count(V16& counts, std::uint64_t& total) {
  const DU du;
  const VU pairs = hn::BitCast(du, counts);
  const VU both = hn::Add(hn::And(pairs, hn::Set(du, 0xFFFF)), hn::ShiftRight<16>(pairs));
  total += hn::GetLane(hn::SumOfLanes(du, both));
  counts = hn::Zero(D16());
}

template <typename Coder, typename Values, bool kLargest>
HWY_INLINE V16 EncodeUnit(const std::byte* from, VF scale, VF reciprocal, VF& errors0, VF& errors1,
                          VF& squares0, VF& squares1, VF& largest0, VF& largest1,
                          V16& nonzero_codes, V16& nonzero_values) {
  VF even;
  VF odd;
  V16 signs;
  Coder::template Load<Values>(from, even, odd, signs);
  VF made0;
  VF made1;
  const VU low = Coder::template CodeOf<Values>(even, scale, reciprocal, made0);
  const VU high = Coder::template CodeOf<Values>(odd, scale, reciprocal, made1);
  const VF error0 = hn::Sub(even, hn::Mul(made0, scale));
  const VF error1 = hn::Sub(odd, hn::Mul(made1, scale));
  errors0 = hn::MulAdd(error0, error0, errors0);
  errors1 = hn::MulAdd(error1, error1, errors1);
  squares0 = hn::MulAdd(even, even, squares0);
  squares1 = hn::MulAdd(odd, odd, squares1);
  if constexpr (kLargest) {
    largest0 = hn::Max(largest0, hn::Abs(error0));
    largest1 = hn::Max(largest1, hn::Abs(error1));
  }
  const V16 codes = Coder::Join(low, high);
  const V16 nonzero = NonzeroValues<Values>(from, even, odd);
  nonzero_codes = hn::Add(nonzero_codes, hn::Min(codes, hn::Set(D16(), 1)));
  nonzero_values = hn::Add(nonzero_values, nonzero);
  return Coder::Stored(codes, signs, nonzero);
}

// The blocks of a unit's lanes as indices; those behind the last block are the last.
HWY_INLINE auto IndicesUpTo(std::size_t last, const std::int32_t* lane_blocks) {
  const DF df;
  HWY_ALIGN std::int32_t each[hn::MaxLanes(df)];
  for (std::size_t i = 0; i < hn::Lanes(df); ++i) {
    each[i] = std::min(lane_blocks[i], static_cast<std::int32_t>(last));
  }
  return hn::SetTableIndices(df, each);
}

template <typename Coder, typename Values, bool kLargest>
HWY_NOINLINE void EncodeRunAs(const EncodeRun& run, std::uint8_t* HWY_RESTRICT codes,
                              Quality& quality) {
  const DF df;
  const DD dd;
  const D16 d16;
  const hn::RebindToSigned<DF> di;
  constexpr std::size_t kCodesOfByte = 8 / Coder::kBits;
  const std::size_t unit = UnitSize();
  const std::byte* HWY_RESTRICT const values = run.values;
  // A block is several units, or several blocks are one. Each lane has two neighbours.
  const std::size_t block_cols =
      run.size <= run.block_cols ? std::max(run.size, unit) : run.block_cols;
  const std::size_t blocks = std::max<std::size_t>(1, unit / block_cols);
  const std::size_t step = std::max(unit, block_cols);
  HWY_ALIGN std::int32_t lane_blocks[hn::MaxLanes(di)];
  for (std::size_t i = 0; i < hn::Lanes(di); ++i) {
    lane_blocks[i] = static_cast<std::int32_t>(2 * i / block_cols);
  }
  const auto indices = IndicesUpTo(blocks - 1, lane_blocks);
  VF errors0 = hn::Zero(df);
  VF errors1 = hn::Zero(df);
  VF squares0 = hn::Zero(df);
  VF squares1 = hn::Zero(df);
  VF largest0 = hn::Zero(df);
  VF largest1 = hn::Zero(df);
  VD all_errors = hn::Zero(dd);
  VD all_squares = hn::Zero(dd);
  V16 nonzero_codes = hn::Zero(d16);
  V16 nonzero_values = hn::Zero(d16);
  std::uint64_t all_nonzero_codes = 0;
  std::uint64_t all_nonzero_values = 0;
  std::size_t units = 0;
  std::size_t block = 0;
  for (std::size_t begin = 0; begin < run.size; begin += step, block += blocks) {
    VF scale = hn::Set(df, run.scales[block]);
    VF reciprocal = hn::Set(df, run.reciprocals[block]);
    const std::size_t end = std::min(run.size, begin + step);
    if (blocks != 1) {
      // Behind the last block is none.
      const auto whole =
          end - begin == step ? indices : IndicesUpTo((end - begin - 1) / block_cols, lane_blocks);
      scale = hn::TableLookupLanes(hn::LoadU(df, run.scales + block), whole);
      reciprocal = hn::TableLookupLanes(hn::LoadU(df, run.reciprocals + block), whole);
    }
    for (std::size_t i = begin; i < end;) {
      const std::size_t stop = std::min(end, i + kWidenUnits * unit);
      units += (stop - i + unit - 1) / unit;
      for (; i + unit <= stop; i += unit) {
        const std::byte* const from = values + i * Values::kBytes;
        FetchAhead(from, run.ahead);
        StoreCodes<Coder::kBits>(EncodeUnit<Coder, Values, kLargest>(
                                     from, scale, reciprocal, errors0, errors1, squares0, squares1,
                                     largest0, largest1, nonzero_codes, nonzero_values),
                                 codes + i / kCodesOfByte);
      }
      if (i < stop) {
        // Zeros behind the last value count as nothing.
        HWY_ALIGN std::byte part[hn::MaxLanes(d16) * Values::kBytes] = {};
        HWY_ALIGN std::uint8_t results[hn::MaxLanes(d16)];
        std::memcpy(part, values + i * Values::kBytes, (stop - i) * Values::kBytes);
        StoreCodes<Coder::kBits>(EncodeUnit<Coder, Values, kLargest>(
                                     part, scale, reciprocal, errors0, errors1, squares0, squares1,
                                     largest0, largest1, nonzero_codes, nonzero_values),
                                 results);
        std::memcpy(codes + i / kCodesOfByte, results, (stop - i) / kCodesOfByte);
        i = stop;
      }
      if (HWY_UNLIKELY(units >= kWidenUnits)) {
        Widen(errors0, errors1, all_errors);
        Widen(squares0, squares1, all_squares);
        Count(nonzero_codes, all_nonzero_codes);
        Count(nonzero_values, all_nonzero_values);
        units = 0;
      }
    }
  }
  Widen(errors0, errors1, all_errors);
  Widen(squares0, squares1, all_squares);
  Count(nonzero_codes, all_nonzero_codes);
  Count(nonzero_values, all_nonzero_values);
  AddTo<kLargest>(quality, all_errors, all_squares, largest0, largest1);
  quality.flushed_to_zero += all_nonzero_values - all_nonzero_codes;
}

template <typename Coder>
HWY_INLINE void EncodeRunBy(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  switch (run.format) {
    case FloatFormat::kBF16:
      if (run.largest) return EncodeRunAs<Coder, Bf16Values, true>(run, codes, quality);
      return EncodeRunAs<Coder, Bf16Values, false>(run, codes, quality);
    case FloatFormat::kF16:
      return EncodeRunAs<Coder, F16Values, true>(run, codes, quality);
    case FloatFormat::kF32:
      break;
  }
  return EncodeRunAs<Coder, F32Values, true>(run, codes, quality);
}

void OwnInt8(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<IntegerCoder<OwnQuotient, 8>>(run, codes, quality);
}
void OwnInt4(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<IntegerCoder<OwnQuotient, 4>>(run, codes, quality);
}
void FloatInt8(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<IntegerCoder<Divide, 8>>(run, codes, quality);
}
void E2M1(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<E2M1Coder<Divide, false>>(run, codes, quality);
}
void PowerE2M1(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<E2M1Coder<DivideByPower, false>>(run, codes, quality);
}
void PowerE2M1Down(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<E2M1Coder<DivideByPower, true>>(run, codes, quality);
}
void PowerE4M3(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  EncodeRunBy<E4M3Coder>(run, codes, quality);
}

// Vectors may reach behind the last block: what they find there counts for nothing.
BlockScales Reciprocals(const float* amax, const float* scales, std::size_t count, float most,
                        float* reciprocals) {
  const hn::CappedTag<float, 16> df;
  const std::size_t lanes = hn::Lanes(df);
  const auto one = hn::Set(df, 1);
  const auto zero = hn::Zero(df);
  auto greatest = zero;
  BlockScales result{true, 0};
  for (std::size_t i = 0; i < count; i += lanes) {
    const std::size_t left = std::min(lanes, count - i);
    const auto counts = hn::FirstN(df, left);
    const auto scale = hn::IfThenElseZero(counts, hn::LoadU(df, scales + i));
    const auto largest = hn::LoadU(df, amax + i);
    const auto fits = hn::And(hn::Le(scale, hn::Set(df, kMostRegularScale)),
                              hn::Ge(scale, hn::Set(df, kLeastRegularScale)));
    const auto held = hn::And(fits, hn::Le(largest, hn::Mul(hn::Set(df, most), scale)));
    const auto taken =
        hn::Or(hn::Ge(largest, hn::Set(df, kLeastRegularAmax)), hn::Eq(largest, zero));
    const auto is_regular = hn::And(held, taken);
    hn::StoreU(hn::IfThenElseZero(is_regular, hn::Div(one, scale)), df, reciprocals + i);
    greatest = hn::Max(greatest, scale);
    result.all_regular = result.all_regular && hn::CountTrue(df, is_regular) == left;
  }
  result.largest = hn::GetLane(hn::MaxOfLanes(df, greatest));
  return result;
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(OwnInt8);
HWY_EXPORT(OwnInt4);
HWY_EXPORT(FloatInt8);
HWY_EXPORT(E2M1);
HWY_EXPORT(PowerE2M1);
HWY_EXPORT(PowerE2M1Down);
HWY_EXPORT(PowerE4M3);
HWY_EXPORT(Reciprocals);
HWY_EXPORT(StreamRow);

void EncodeOwnInt8Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(OwnInt8)(run, codes, quality);
}
void EncodeOwnInt4Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(OwnInt4)(run, codes, quality);
}
void EncodeFloatInt8Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(FloatInt8)(run, codes, quality);
}
void EncodeE2M1Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(E2M1)(run, codes, quality);
}
void EncodePowerE2M1Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(PowerE2M1)(run, codes, quality);
}
void EncodePowerE2M1DownRun(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(PowerE2M1Down)(run, codes, quality);
}
void EncodePowerE4M3Run(const EncodeRun& run, std::uint8_t* codes, Quality& quality) {
  HWY_DYNAMIC_DISPATCH(PowerE4M3)(run, codes, quality);
}

BlockScales TakeReciprocals(const float* amax, const float* scales, std::size_t count, float most,
                            float* reciprocals) {
  return HWY_DYNAMIC_DISPATCH(Reciprocals)(amax, scales, count, most, reciprocals);
}

void StreamBytes(const std::uint8_t* from, std::size_t size, std::uint8_t* to) {
  HWY_DYNAMIC_DISPATCH(StreamRow)(from, size, to);
}

void FinishStreams() { hwy::FlushStream(); }

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

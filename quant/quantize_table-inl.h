// The codes of BF16 values by a table for each block instead of by arithmetic, for each instruction
// set; included once for each by the files that use foreach_target.h. docs/numerics.md says why it
// gives the same codes.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "quant/quantize_rule.h"
#include "quant/quantize_tile.h"

#if defined(DSV3_QUANT_QUANTIZE_TABLE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_QUANTIZE_TABLE_INL_H
#undef DSV3_QUANT_QUANTIZE_TABLE_INL_H
#else
#define DSV3_QUANT_QUANTIZE_TABLE_INL_H
#endif

#include "hwy/highway.h"
#include "quant/quantize_block-inl.h"
#include "quant/quantize_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

// A magnitude's bits, plus the step of its eight mantissas, plus the bias, are a fixed-point code:
// 16 · code + the part that was rounded away. Its upper 12 bits are those of a float, the number
// that the code means times 2^-120.
constexpr std::int16_t kFixedSmallest = 0x80;  // the code of 2^-6, the smallest normal one
constexpr float kFixedUnit = 0x1p120F;
constexpr float kFixedScales = 0x1p7F;  // times kFixedUnit, smaller scales stay finite

// The part of a table that does not depend on the exponent.
struct CodeSteps {
  std::uint32_t significand = 0;  // of the operand, for which it was made
  std::uint16_t first_code = 0;   // of the mantissa 0, for quotients between 4 and 16
  bool made = false;
  std::uint8_t steps[16];  // [i] for the mantissas 8i to 8i + 7
};

// Vectors of 32 numbers are a table of steps with the bias, each step twice, so that what is above
// the four bits of the index need not be cleared.
#undef DSV3_QUANT_WIDE_STEPS
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define DSV3_QUANT_WIDE_STEPS 1
#else
#define DSV3_QUANT_WIDE_STEPS 0
#endif

struct CodeTable {
#if DSV3_QUANT_WIDE_STEPS
  alignas(64) std::uint16_t steps[32];
#else
  alignas(16) std::uint8_t steps[16];
  std::uint16_t bias;
#endif
  float scale;  // times what a fixed-point code means is the dequantised value
  bool usable;
};

// The exponent field of values whose quotients lie between 4 and 16: both powers of two that they
// fall in are normal codes.
template <typename Quotient>
HWY_INLINE std::uint32_t FieldOfQuotients(float operand) {
  const std::uint32_t field = std::bit_cast<std::uint32_t>(operand) >> 23;
  return std::is_same_v<Quotient, Multiply> ? 2 * 127 + 2 - field : field + 3;
}

template <typename Quotient>
HWY_NOINLINE void MakeSteps(float operand, CodeSteps& made) {
  const DF df;
  const DU du;
  const VF operands = hn::Set(df, operand);
  const VF reciprocals = hn::Set(df, 1 / operand);
  const VU field = hn::Set(du, FieldOfQuotients<Quotient>(operand) << 23);
  HWY_ALIGN std::uint32_t steps[std::max<std::size_t>(16, hn::MaxLanes(du))];
  VU first_code = hn::Zero(du);
  for (std::size_t i = 0; i < 16; i += hn::Lanes(du)) {
    const VU index = hn::Iota(du, static_cast<std::uint32_t>(i));
    // Of the eight mantissas, one at most is the first with the next code. The sum of their codes
    // gives how many come before it; the step takes it to the next multiple of 16.
    VU sum = hn::Zero(du);
    VU code = hn::Zero(du);
    for (std::uint32_t j = 8; j-- > 0;) {
      const VU mantissa = hn::Add(hn::ShiftLeft<3>(index), hn::Set(du, j));
      const VF x = hn::BitCast(df, hn::Or(field, hn::ShiftLeft<16>(mantissa)));
      VF rounded;
      code = EncodeMagnitude(Quotient::Of(x, operands, reciprocals), rounded);
      sum = hn::Add(sum, code);
    }
    if (i == 0) first_code = hn::Set(du, hn::GetLane(code));
    const VU codes = hn::Add(sum, hn::ShiftLeft<3>(code));
    const VU past = hn::Add(hn::ShiftLeft<4>(first_code), hn::ShiftLeft<3>(index));
    hn::Store(hn::Add(hn::Sub(codes, past), hn::Set(du, 8)), du, steps + i);
  }
  for (std::size_t i = 0; i < 16; ++i) made.steps[i] = static_cast<std::uint8_t>(steps[i]);
  made.first_code = static_cast<std::uint16_t>(hn::GetLane(first_code) - kCodeBias);
  made.significand = std::bit_cast<std::uint32_t>(operand) & 0x7F'FFFFU;
  made.made = true;
}

// BF16 magnitudes have 128 mantissas, so most blocks find the steps that another one made.
template <typename Quotient>
HWY_INLINE const CodeSteps& StepsOf(float operand) {
  thread_local CodeSteps all[256];
  const std::uint32_t significand = std::bit_cast<std::uint32_t>(operand) & 0x7F'FFFFU;
  CodeSteps& steps = all[significand >> 15];
  if (HWY_UNLIKELY(!steps.made || steps.significand != significand)) {
    MakeSteps<Quotient>(operand, steps);
  }
  return steps;
}

// Makes a table that is usable unless the scale is too large. Precondition: the rule is regular.
template <typename Quotient>
HWY_INLINE void MakeCodeTable(const BlockRule& rule, CodeTable& table) {
  if (rule.scale >= kFixedScales) return;
  const CodeSteps& made = StepsOf<Quotient>(rule.operand);
  const std::uint32_t past = FieldOfQuotients<Quotient>(rule.operand) * 128;
#if DSV3_QUANT_WIDE_STEPS
  const auto bias = static_cast<std::uint16_t>(16U * made.first_code - past);
  for (std::size_t i = 0; i < 16; ++i) {
    table.steps[i] = table.steps[i + 16] = static_cast<std::uint16_t>(bias + made.steps[i]);
  }
#else
  std::memcpy(table.steps, made.steps, sizeof(table.steps));
  // The upper bytes of magnitudes, which are looked up as zeros, give the first step.
  table.bias = static_cast<std::uint16_t>(16U * made.first_code - past - 256U * made.steps[0]);
#endif
  table.scale = rule.scale * kFixedUnit;
  table.usable = true;
}

#if DSV3_QUANT_WIDE_STEPS

struct Steps {
  V16 steps;
};

HWY_INLINE Steps LoadSteps(const CodeTable& table) { return {hn::Load(D16(), table.steps)}; }

// The fixed-point codes of a vector of magnitudes.
HWY_INLINE V16 FixedCodes(V16 magnitudes, Steps table) {
  const V16 index = hn::ShiftRight<3>(magnitudes);
  return hn::Add(magnitudes, V16{_mm512_permutexvar_epi16(index.raw, table.steps.raw)});
}

// The low bytes of codes, which are less than 128, with the signs of values.
HWY_INLINE hn::Vec<hn::Repartition<std::uint8_t, D16>> NarrowSigned(V16 codes0, V16 codes1,
                                                                    V16 values0, V16 values1) {
  const hn::Repartition<std::uint8_t, D16> d8;
  const hn::Repartition<std::uint64_t, D16> d64;
  HWY_ALIGN static constexpr std::uint64_t kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  // Saturation keeps the sign.
  const hn::Vec<decltype(d8)> codes{_mm512_packus_epi16(codes0.raw, codes1.raw)};
  const hn::Vec<decltype(d8)> signs{_mm512_packs_epi16(values0.raw, values1.raw)};
  const auto both = hn::OrAnd(codes, signs, hn::Set(d8, 0x80));
  return hn::BitCast(
      d8, hn::TableLookupLanes(hn::BitCast(d64, both), hn::SetTableIndices(d64, kOrder)));
}

#else

// Vectors whose length the compiler does not know (SVE) cannot be members of a struct.
using Steps = const CodeTable&;

HWY_INLINE Steps LoadSteps(const CodeTable& table) { return table; }

// The fixed-point codes of a vector of magnitudes.
HWY_INLINE V16 FixedCodes(V16 magnitudes, Steps table) {
  const D16 d16;
  const hn::Repartition<std::uint8_t, D16> d8;
  const V16 index = hn::And(hn::ShiftRight<3>(magnitudes), hn::Set(d16, 0x0F));
  const auto step = hn::TableLookupBytes(hn::LoadDup128(d8, table.steps), hn::BitCast(d8, index));
  return hn::Add(hn::Add(magnitudes, hn::Set(d16, table.bias)), hn::BitCast(d16, step));
}

// The low bytes of codes, which are less than 128, with the signs of values.
HWY_INLINE hn::Vec<hn::Repartition<std::uint8_t, D16>> NarrowSigned(V16 codes0, V16 codes1,
                                                                    V16 values0, V16 values1) {
  const hn::Repartition<std::uint8_t, D16> d8;
  const V16 sign = hn::Set(D16(), 0x8000);
  const V16 low = hn::OrAnd(hn::ShiftLeft<8>(codes0), values0, sign);
  const V16 high = hn::OrAnd(hn::ShiftLeft<8>(codes1), values1, sign);
  return hn::ConcatOdd(d8, hn::BitCast(d8, high), hn::BitCast(d8, low));
}

#endif  // DSV3_QUANT_WIDE_STEPS

// Adds the errors of a vector; the largest ones only if they are asked for.
template <bool kLargest>
HWY_INLINE void AddFixedErrors(V16 magnitudes, V16 fixed, V16 codes, VF scale, VF& errors0,
                               VF& errors1, VF& squares0, VF& squares1, VF& largest0,
                               VF& largest1) {
  const DF df;
  const DU du;
  const VU x = hn::BitCast(du, magnitudes);
  const VU y = hn::BitCast(du, fixed);
  const VF x0 = hn::BitCast(df, hn::ShiftLeft<16>(x));
  const VF x1 = hn::BitCast(df, hn::And(x, hn::Set(du, 0xFFFF0000U)));
  const VF y0 = hn::BitCast(df, hn::ShiftLeft<20>(hn::BitCast(du, codes)));
  const VF y1 = hn::BitCast(df, hn::And(y, hn::Set(du, 0xFFF00000U)));
  const VF error0 = hn::Sub(x0, hn::Mul(y0, scale));
  const VF error1 = hn::Sub(x1, hn::Mul(y1, scale));
  errors0 = hn::MulAdd(error0, error0, errors0);
  errors1 = hn::MulAdd(error1, error1, errors1);
  squares0 = hn::MulAdd(x0, x0, squares0);
  squares1 = hn::MulAdd(x1, x1, squares1);
  if constexpr (kLargest) {
    largest0 = hn::Max(largest0, hn::Abs(error0));
    largest1 = hn::Max(largest1, hn::Abs(error1));
  }
}

// Encodes whole vectors of a row, up to the first one that has a code which is not normal, and
// returns how many values it has done.
template <bool kLargest>
HWY_INLINE std::size_t EncodeNormal(const std::uint16_t* HWY_RESTRICT values, std::size_t size,
                                    std::uint64_t ahead, Steps steps, VF scale,
                                    std::uint8_t* HWY_RESTRICT codes, VF& errors0, VF& errors1,
                                    VF& squares0, VF& squares1, VF& largest0, VF& largest1) {
  const D16 d16;
  const DC dc;
  const hn::RebindToSigned<D16> ds;
  const hn::Repartition<std::uint8_t, D16> d8;
  const std::size_t unit = UnitSize();
  const V16 magnitude = hn::Set(d16, 0x7FFF);
  const auto smallest = hn::Set(ds, kFixedSmallest);
  std::size_t i = 0;
  for (; i + 2 * unit <= size; i += 2 * unit) {
    FetchAhead(values + i, ahead);
    FetchAhead(values + i + unit, ahead);
    const V16 values0 = hn::LoadU(d16, values + i);
    const V16 values1 = hn::LoadU(d16, values + i + unit);
    const V16 x0 = hn::And(values0, magnitude);
    const V16 x1 = hn::And(values1, magnitude);
    const V16 fixed0 = FixedCodes(x0, steps);
    const V16 fixed1 = FixedCodes(x1, steps);
    const auto least = hn::Min(hn::BitCast(ds, fixed0), hn::BitCast(ds, fixed1));
    if (HWY_UNLIKELY(!hn::AllFalse(ds, hn::Lt(least, smallest)))) return i;
    const V16 codes0 = hn::ShiftRight<4>(fixed0);
    const V16 codes1 = hn::ShiftRight<4>(fixed1);
    AddFixedErrors<kLargest>(x0, fixed0, codes0, scale, errors0, errors1, squares0, squares1,
                             largest0, largest1);
    AddFixedErrors<kLargest>(x1, fixed1, codes1, scale, errors0, errors1, squares0, squares1,
                             largest0, largest1);
    hn::StoreU(NarrowSigned(codes0, codes1, values0, values1), d8, codes + i);
  }
  if (i + unit <= size) {
    FetchAhead(values + i, ahead);
    const V16 values0 = hn::LoadU(d16, values + i);
    const V16 x0 = hn::And(values0, magnitude);
    const V16 fixed0 = FixedCodes(x0, steps);
    if (HWY_UNLIKELY(!hn::AllFalse(ds, hn::Lt(hn::BitCast(ds, fixed0), smallest)))) return i;
    const V16 codes0 = hn::ShiftRight<4>(fixed0);
    AddFixedErrors<kLargest>(x0, fixed0, codes0, scale, errors0, errors1, squares0, squares1,
                             largest0, largest1);
    hn::StoreU(
        hn::TruncateTo(dc, hn::OrAnd(codes0, hn::ShiftRight<8>(values0), hn::Set(d16, 0x80))), dc,
        codes + i);
    i += unit;
  }
  return i;
}

// Values of a row that are left to EncodeByRule.
struct LeftOver {
  std::size_t block;
  std::size_t begin;
  std::size_t end;
};

// Encodes the rows of a tile of at most kRowPart columns across its blocks. Vectors with a code
// that is not normal, what is less than a vector, and blocks whose rule is not regular are left to
// EncodeByRule. rows.Begin(row) returns the address for the codes; rows.End(row) is called when
// they are there.
template <bool kLargest, typename Rows>
HWY_INLINE void EncodeRows(const QuantizeTile& tile, const BlockRule* rules,
                           const CodeTable* tables, const Rows& rows, LaneSums& sums,
                           Quality& quality) {
  const DF df;
  const DD dd;
  const std::size_t unit = UnitSize();
  const auto width = static_cast<std::size_t>(tile.width);
  const auto block_cols = static_cast<std::size_t>(std::min(tile.block_cols, tile.width));
  const auto first_end = static_cast<std::size_t>(
      std::min(tile.block_cols - tile.column % tile.block_cols, tile.width));
  LeftOver left_over[kRowPart];
  VF errors0 = hn::Zero(df);
  VF errors1 = hn::Zero(df);
  VF squares0 = hn::Zero(df);
  VF squares1 = hn::Zero(df);
  VF largest0 = hn::Zero(df);
  VF largest1 = hn::Zero(df);
  VD all_errors = hn::Zero(dd);
  VD all_squares = hn::Zero(dd);
  std::size_t units = 0;
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const std::uint64_t row_at = row * tile.stride * sizeof(std::uint16_t);
    const auto* HWY_RESTRICT const values =
        reinterpret_cast<const std::uint16_t*>(tile.values + row_at);
    std::uint8_t* const codes = rows.Begin(row);
    // No function is called before the row is done: the sums stay in registers.
    std::size_t left = 0;
    std::size_t end = first_end;
    std::size_t i = 0;
    for (std::size_t block = 0; i < width; ++block, end = std::min(end + block_cols, width)) {
      Steps steps = LoadSteps(tables[block]);
      const VF scale = hn::Set(df, tables[block].scale);
      std::size_t few = tables[block].usable ? 2 * unit : end - i;
      while (i < end) {
        if (tables[block].usable) {
          i += EncodeNormal<kLargest>(values + i, end - i, tile.ahead, steps, scale, codes + i,
                                      errors0, errors1, squares0, squares1, largest0, largest1);
          if (i == end) break;
        }
        few = std::min(few, end - i);
        if (left != 0 && left_over[left - 1].end == i && left_over[left - 1].block == block) {
          left_over[left - 1].end += few;
        } else {
          left_over[left++] = {block, i, i + few};
        }
        i += few;
      }
    }
    units += width / unit;
    if (HWY_UNLIKELY(units >= kFlushUnits)) {
      Widen(errors0, errors1, all_errors);
      Widen(squares0, squares1, all_squares);
      units = 0;
    }
    for (std::size_t j = 0; j < left; ++j) {
      const LeftOver& some = left_over[j];
      EncodeByRule<Bf16Values>(SubTile(tile, row, 1, some.begin, some.end - some.begin),
                               rules[some.block], codes + some.begin, 0, sums, quality);
    }
    rows.End(row);
  }
  Widen(errors0, errors1, all_errors);
  Widen(squares0, squares1, all_squares);
  AddTo<kLargest>(quality, all_errors, all_squares, largest0, largest1);
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard

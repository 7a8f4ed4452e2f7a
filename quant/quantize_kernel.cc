// The vector kernels of quantisation, compiled once for each instruction set. What they compute,
// and why it is the same everywhere, is told in docs/numerics.md.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/quantize_tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/quantize_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "quant/quantize_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

void Magnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const bool wide = tile.format == FloatFormat::kF32;
  const std::size_t bytes = FloatBytes(tile.format);
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const std::byte* const values = tile.values + row * tile.stride * bytes;
    ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
      for (std::size_t i = offset; i < offset + size; ++i) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, values + i * bytes, bytes);
        magnitudes[block] = std::max(magnitudes[block], bits & (wide ? 0x7FFF'FFFFU : 0x7FFFU));
      }
    });
  }
}

double Squares(FloatFormat format, const std::byte* values, std::size_t size) {
  double sum = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const auto value = static_cast<double>(ValueAt(format, values, i));
    sum += value * value;
  }
  return sum;
}

void Encode(const QuantizeTile& tile, const BlockRule* rules, bool /*stream*/, std::uint8_t* codes,
            Quality& quality) {
  const std::size_t bytes = FloatBytes(tile.format);
  ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
    for (std::uint64_t row = 0; row < tile.rows; ++row) {
      const std::size_t at = row * tile.stride + offset;
      EncodeRunScalar(rules[block], tile.format, tile.values + at * bytes, size, codes + at,
                      quality);
    }
  });
}

#else

template <typename Values, typename Quotient>
void EncodeBlock(const QuantizeTile& tile, const BlockRule& rule, std::size_t offset,
                 std::size_t size, bool stream, std::uint8_t* HWY_RESTRICT codes, LaneSums& sums,
                 Quality& quality) {
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
  const bool prefetch = tile.next != nullptr;
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const std::size_t begin = static_cast<std::size_t>(row * tile.stride) + offset;
    const std::size_t end = begin + size;
    std::size_t i = begin;
    while (i + unit <= end) {
      const std::size_t stop = std::min(end - unit + 1, i + kFlushUnits * unit);
      units += (stop - i - 1) / unit + 1;
      for (; i < stop; i += unit) {
        VF even;
        VF odd;
        V16 signs;
        if (prefetch) hwy::Prefetch(tile.next + i * Values::kBytes);
        Values::Load(tile.values + i * Values::kBytes, even, odd, signs);
        const V16 unit_codes =
            EncodeUnit<Quotient>(even, odd, signs, operand, reciprocal, scale, errors0, errors1,
                                 squares0, squares1, largest0, largest1, zero_codes, zero_values);
        if (stream) {
          hn::Stream(hn::TruncateTo(dc, unit_codes), dc, codes + i);
        } else {
          hn::StoreU(hn::TruncateTo(dc, unit_codes), dc, codes + i);
        }
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
      std::memcpy(part, tile.values + i * Values::kBytes, (end - i) * Values::kBytes);
      VF even;
      VF odd;
      V16 signs;
      Values::Load(part, even, odd, signs);
      const V16 unit_codes =
          EncodeUnit<Quotient>(even, odd, signs, operand, reciprocal, scale, errors0, errors1,
                               squares0, squares1, largest0, largest1, zero_codes, zero_values);
      hn::StoreU(hn::TruncateTo(dc, unit_codes), dc, results);
      std::memcpy(codes + i, results, end - i);
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

template <typename Values>
void EncodeAs(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
              Quality& quality) {
  const DF df;
  const std::size_t lanes = hn::Lanes(df);
  LaneSums sums;
  for (float* const part : {sums.error_squares, sums.squares, sums.largest_error}) {
    hn::Store(hn::Zero(df), df, part);
    hn::Store(hn::Zero(df), df, part + lanes);
  }
  ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
    const BlockRule& rule = rules[block];
    if (!rule.regular) {
      for (std::uint64_t row = 0; row < tile.rows; ++row) {
        const std::size_t at = row * tile.stride + offset;
        EncodeRunScalar(rule, Values::kFormat, tile.values + at * Values::kBytes, size, codes + at,
                        quality);
      }
      return;
    }
    quality.elements += tile.rows * size;
    if (rule.operation == BlockRule::Operation::kMultiply) {
      EncodeBlock<Values, Multiply>(tile, rule, offset, size, stream, codes, sums, quality);
    } else if (rule.own == FloatFormat::kF32) {
      EncodeBlock<Values, Divide<Values>>(tile, rule, offset, size, stream, codes, sums, quality);
    } else {
      EncodeBlock<Values, DivideInOwn<Values>>(tile, rule, offset, size, stream, codes, sums,
                                               quality);
    }
  });
  const auto total = [&](const float* part) HWY_ATTR {
    const VF both = hn::Add(hn::Load(df, part), hn::Load(df, part + lanes));
    return static_cast<double>(hn::GetLane(hn::SumOfLanes(df, both)));
  };
  quality.sum_squared_error += total(sums.error_squares);
  quality.sum_squares += total(sums.squares);
  quality.flushed_to_zero += sums.zero_codes - sums.zero_values;
  const VF largest =
      hn::Max(hn::Load(df, sums.largest_error), hn::Load(df, sums.largest_error + hn::Lanes(df)));
  quality.max_abs_error = std::max(quality.max_abs_error,
                                   static_cast<double>(hn::GetLane(hn::MaxOfLanes(df, largest))));
}

void Encode(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
            Quality& quality) {
  // Only aligned vectors of 16 bytes or more are stored past the caches. With vectors of 16 bytes
  // the codes of a unit have 8.
  const std::size_t bytes = hn::Lanes(DC());
  const std::uint64_t places =
      reinterpret_cast<std::uintptr_t>(codes) | tile.stride | tile.block_cols | tile.column;
  const bool past_caches = stream && bytes >= 16 && places % bytes == 0;
  switch (tile.format) {
    case FloatFormat::kBF16:
      EncodeAs<Bf16Values>(tile, rules, past_caches, codes, quality);
      break;
    case FloatFormat::kF16:
      EncodeAs<F16Values>(tile, rules, past_caches, codes, quality);
      break;
    case FloatFormat::kF32:
      EncodeAs<F32Values>(tile, rules, past_caches, codes, quality);
      break;
  }
  if (past_caches) hwy::FlushStream();
}

// ---- Magnitudes -----------------------------------------------------------------------------

template <typename Bits>
void MagnitudesAs(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  const hn::ScalableTag<Bits> d;
  using V = hn::Vec<decltype(d)>;
  constexpr auto kMask = static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  const V mask = hn::Set(d, kMask);
  const std::size_t lanes = hn::Lanes(d);
  HWY_ALIGN Bits largest[kMaxTileBlocks * hn::MaxLanes(d)];
  const std::size_t blocks = tile.blocks();
  for (std::size_t block = 0; block < blocks; ++block) {
    hn::Store(hn::Zero(d), d, largest + block * lanes);
  }
  for (std::uint64_t row = 0; row < tile.rows; ++row) {
    const auto* const values =
        reinterpret_cast<const Bits*>(tile.values + row * tile.stride * sizeof(Bits));
    ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
      const Bits* const from = values + offset;
      V first = hn::Load(d, largest + block * lanes);
      V second = first;
      std::size_t i = 0;
      for (; i + 2 * lanes <= size; i += 2 * lanes) {
        first = hn::Max(first, hn::And(hn::LoadU(d, from + i), mask));
        second = hn::Max(second, hn::And(hn::LoadU(d, from + i + lanes), mask));
      }
      for (; i + lanes <= size; i += lanes) {
        first = hn::Max(first, hn::And(hn::LoadU(d, from + i), mask));
      }
      if (i < size) {
        HWY_ALIGN Bits part[hn::MaxLanes(d)] = {};
        std::memcpy(part, from + i, (size - i) * sizeof(Bits));
        second = hn::Max(second, hn::And(hn::Load(d, part), mask));
      }
      hn::Store(hn::Max(first, second), d, largest + block * lanes);
    });
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    const V lane = hn::MaxOfLanes(d, hn::Load(d, largest + block * lanes));
    magnitudes[block] = std::max<std::uint32_t>(magnitudes[block], hn::GetLane(lane));
  }
}

void Magnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  if (tile.format == FloatFormat::kF32) {
    MagnitudesAs<std::uint32_t>(tile, magnitudes);
  } else {
    MagnitudesAs<std::uint16_t>(tile, magnitudes);
  }
}

// ---- Squares --------------------------------------------------------------------------------

template <typename Values>
double SquaresAs(const std::byte* values, std::size_t size) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> half;
  const std::size_t unit = UnitSize();
  auto total = hn::Zero(dd);
  HWY_ALIGN std::byte part[hn::MaxLanes(D16()) * Values::kBytes] = {};
  const auto add = [&](VF x) HWY_ATTR {
    const auto low = hn::PromoteTo(dd, hn::LowerHalf(half, x));
    const auto high = hn::PromoteTo(dd, hn::UpperHalf(half, x));
    total = hn::Add(total, hn::Add(hn::Mul(low, low), hn::Mul(high, high)));
  };
  for (std::size_t i = 0; i < size; i += unit) {
    const std::byte* from = values + i * Values::kBytes;
    if (size - i < unit) {
      std::memcpy(part, from, (size - i) * Values::kBytes);
      from = part;
    }
    VF even;
    VF odd;
    V16 signs;
    Values::Load(from, even, odd, signs);
    add(even);
    add(odd);
  }
  return hn::GetLane(hn::SumOfLanes(dd, total));
}

double Squares(FloatFormat format, const std::byte* values, std::size_t size) {
  switch (format) {
    case FloatFormat::kBF16:
      return SquaresAs<Bf16Values>(values, size);
    case FloatFormat::kF16:
      return SquaresAs<F16Values>(values, size);
    case FloatFormat::kF32:
      break;
  }
  return SquaresAs<F32Values>(values, size);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(Magnitudes);
HWY_EXPORT(Encode);
HWY_EXPORT(Squares);

void MaxMagnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes) {
  HWY_DYNAMIC_DISPATCH(Magnitudes)(tile, magnitudes);
}

void EncodeTile(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
                Quality& quality) {
  HWY_DYNAMIC_DISPATCH(Encode)(tile, rules, stream, codes, quality);
}

double SumOfSquares(FloatFormat format, const std::byte* values, std::size_t size) {
  return HWY_DYNAMIC_DISPATCH(Squares)(format, values, size);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

// The vector kernels of quantisation, compiled once for each instruction set. docs/numerics.md
// explains what they compute, and why it is the same everywhere.
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
#include "quant/quantize_block-inl.h"
#include "quant/quantize_lanes-inl.h"
#include "quant/quantize_table-inl.h"
#include "quant/stream_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

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

template <typename Values>
void EncodeBlocks(const QuantizeTile& tile, const BlockRule* rules, std::uint8_t* codes,
                  LaneSums& sums, Quality& quality) {
  ForEachBlock(tile, [&](std::size_t block, std::size_t offset, std::size_t size) {
    EncodeByRule<Values>(SubTile(tile, 0, tile.rows, offset, size), rules[block], codes + offset,
                         tile.stride, sums, quality);
  });
}

void MakeCodeTables(const BlockRule* rules, std::size_t blocks, CodeTable* tables) {
  for (std::size_t i = 0; i < blocks; ++i) {
    const BlockRule& rule = rules[i];
    tables[i] = CodeTable{};
    if (!rule.regular) continue;
    if (rule.operation == BlockRule::Operation::kMultiply) {
      MakeCodeTable<Multiply>(rule, tables[i]);
    } else if (rule.own == FloatFormat::kF32) {
      MakeCodeTable<Divide<Bf16Values>>(rule, tables[i]);
    } else {
      MakeCodeTable<DivideInOwn<Bf16Values>>(rule, tables[i]);
    }
  }
}

// Where the rows of codes go: into memory,
struct StoredRows {
  std::uint8_t* codes;
  std::uint64_t stride;
  HWY_INLINE std::uint8_t* Begin(std::uint64_t row) const { return codes + row * stride; }
  HWY_INLINE void End(std::uint64_t /*row*/) const {}
};

// or past the caches. Codes begin at any place in a cache line and only whole lines can be stored
// so, thus a row is put together first. It is stored when the next one has been made, because
// reading bytes that were just written at other places stalls.
struct StreamedRows {
  std::uint8_t* codes;
  std::uint64_t stride;
  std::size_t width;
  std::uint8_t* staged;  // two rows
  HWY_INLINE std::uint8_t* Staged(std::uint64_t row) const { return staged + row % 2 * kRowPart; }
  HWY_INLINE std::uint8_t* Begin(std::uint64_t row) const { return Staged(row); }
  HWY_INLINE void End(std::uint64_t row) const {
    if (row != 0) Stream(row - 1);
  }
  HWY_INLINE void Stream(std::uint64_t row) const {
    StreamRow(Staged(row), width, codes + row * stride);
  }
};

// Codes of large quotients lie 32 apart. A quotient up to 512 that is rounded to BF16 moves by 1.
constexpr double kLargestQuotientError = 17.01;

// The largest error of all tiles is soon as large as most blocks can have, and they need not look.
bool MayExceed(const BlockRule* rules, std::size_t blocks, double largest_error) {
  return std::any_of(rules, rules + blocks, [&](const BlockRule& rule) {
    return kLargestQuotientError * static_cast<double>(rule.scale) > largest_error;
  });
}

template <typename Rows>
HWY_NOINLINE void EncodeBf16(const QuantizeTile& tile, const BlockRule* rules,
                             const CodeTable* tables, const Rows& rows, LaneSums& sums,
                             Quality& quality) {
  if (MayExceed(rules, tile.blocks(), quality.max_abs_error)) {
    EncodeRows<true>(tile, rules, tables, rows, sums, quality);
  } else {
    EncodeRows<false>(tile, rules, tables, rows, sums, quality);
  }
}

void EncodeBf16(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
                LaneSums& sums, Quality& quality) {
  CodeTable tables[kMaxTileBlocks];
  MakeCodeTables(rules, tile.blocks(), tables);
  HWY_ALIGN std::uint8_t staged[2 * kRowPart];
  for (std::uint64_t offset = 0; offset < tile.width; offset += kRowPart) {
    const QuantizeTile part =
        SubTile(tile, 0, tile.rows, offset, std::min(kRowPart, tile.width - offset));
    const std::uint64_t first = part.first_block() - tile.first_block();
    if (!stream) {
      EncodeBf16(part, rules + first, tables + first, StoredRows{codes + offset, tile.stride}, sums,
                 quality);
      continue;
    }
    const StreamedRows rows{codes + offset, tile.stride, static_cast<std::size_t>(part.width),
                            staged};
    EncodeBf16(part, rules + first, tables + first, rows, sums, quality);
    rows.Stream(part.rows - 1);
  }
  if (stream) hwy::FlushStream();
}

void Encode(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
            Quality& quality) {
  // The ways to encode elements count them differently, so they are counted here.
  const std::uint64_t elements = quality.elements + tile.rows * tile.width;
  LaneSums sums;
  Clear(sums);
  switch (tile.format) {
    case FloatFormat::kBF16:
      EncodeBf16(tile, rules, stream, codes, sums, quality);
      break;
    case FloatFormat::kF16:
      EncodeBlocks<F16Values>(tile, rules, codes, sums, quality);
      break;
    case FloatFormat::kF32:
      EncodeBlocks<F32Values>(tile, rules, codes, sums, quality);
      break;
  }
  AddTo(quality, sums);
  quality.elements = elements;
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

HWY_EXPORT(Encode);
HWY_EXPORT(Squares);

void EncodeTile(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
                Quality& quality) {
  HWY_DYNAMIC_DISPATCH(Encode)(tile, rules, stream, codes, quality);
}

double SumOfSquares(FloatFormat format, const std::byte* values, std::size_t size) {
  return HWY_DYNAMIC_DISPATCH(Squares)(format, values, size);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

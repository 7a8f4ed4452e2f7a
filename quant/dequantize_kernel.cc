// The vector kernels of block dequantisation, compiled once for each instruction set.
//
// The codes of a block are looked up in its table, see block_table.h. Blocks whose scale is too
// small or too large for that, and codes that are NaN or infinite, are looked up all the same, and
// the exact scalar result overwrites them afterwards: they hardly occur, and the loop needs no
// branches for them.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/block_table.h"
#include "quant/dequantize_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/dequantize_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "quant/block_table-inl.h"

#ifndef DSV3_QUANT_DEQUANTIZE_KERNEL_ONCE
#define DSV3_QUANT_DEQUANTIZE_KERNEL_ONCE
namespace dsv3::quant::internal {

using BlockTables = std::array<BlockTable, kMaxPieceBlocks>;

// Walks the runs of a piece that lie in one row and one block.
class RunWalker {
 public:
  explicit RunWalker(const DequantizePiece& piece)
      : piece_(piece),
        block_(piece.column / piece.block_cols),
        row_end_(piece.cols - piece.column) {
    // Written so that no sum can overflow, however wide a block is said to be.
    const std::uint64_t in_block = piece.block_cols - piece.column % piece.block_cols;
    end_ = std::min({in_block, row_end_, std::uint64_t{piece.codes.size()}});
  }

  std::uint64_t end() const { return end_; }  // of the run, relative to the piece
  std::uint64_t block() const { return block_ - piece_.first_block; }

  // Precondition: the run does not end the piece.
  void Next() {
    const std::uint64_t size = piece_.codes.size();
    if (end_ == row_end_) {
      block_ = 0;
      row_end_ = piece_.cols < size - end_ ? end_ + piece_.cols : size;
    } else {
      ++block_;
    }
    const std::uint64_t left = std::min(row_end_, size) - end_;
    end_ += std::min(piece_.block_cols, left);
  }

 private:
  const DequantizePiece& piece_;
  std::uint64_t block_;
  std::uint64_t row_end_;
  std::uint64_t end_ = 0;
};

template <typename Layout>
inline void CorrectIrregularBlocks(const DequantizePiece& piece, std::uint16_t* out) {
  std::uint64_t position = 0;
  for (RunWalker run(piece);; run.Next()) {
    const float scale = piece.scales[run.block()];
    if (!IsRegular<Layout>(scale)) {
      for (; position < run.end(); ++position) {
        out[position] = DequantizeCode(Layout::kFormat, piece.codes[position], scale);
      }
    }
    position = run.end();
    if (position == piece.codes.size()) return;
  }
}

// NaNs and infinities. Returns the number of NaNs.
template <typename Layout>
inline std::uint64_t CorrectSpecialCodes(const DequantizePiece& piece, std::uint16_t* out) {
  std::uint64_t count = 0;
  std::uint64_t position = 0;
  for (RunWalker run(piece);; run.Next()) {
    const float scale = piece.scales[run.block()];
    for (; position < run.end(); ++position) {
      const std::uint8_t code = piece.codes[position];
      if ((code & 0x7FU) < Layout::kFirstSpecial) continue;
      out[position] = DequantizeCode(Layout::kFormat, code, scale);
      if (IsNanCode(Layout::kFormat, code)) ++count;
    }
    if (position == piece.codes.size()) return count;
  }
}

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_DEQUANTIZE_KERNEL_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

template <typename Layout>
bool Decode(const DequantizePiece& piece, const BlockTables& tables, bool /*stream*/,
            std::uint16_t* HWY_RESTRICT out) {
  std::uint32_t largest = 0;
  std::uint64_t position = 0;
  for (RunWalker run(piece);; run.Next()) {
    const BlockTable& table = tables[run.block()];
    for (; position < run.end(); ++position) {
      const std::uint8_t code = piece.codes[position];
      largest = std::max(largest, code & 0x7FU);
      out[position] = LookUp<Layout>(table, code);
    }
    if (position == piece.codes.size()) return largest >= Layout::kFirstSpecial;
  }
}

#else

using D8 = hn::ScalableTag<std::uint8_t>;
using D16 = hn::ScalableTag<std::uint16_t>;
using D64 = hn::ScalableTag<std::uint64_t>;
using V8 = hn::Vec<D8>;

// Orders the 8-byte quarters so that interleaving within 16-byte blocks, first of the lower and
// then of the upper halves, gives the elements in order.
HWY_INLINE V8 SpreadHalves(V8 v) {
#if HWY_MAX_BYTES == 16
  return v;
#else
  const D8 d8;
  const D64 d64;
  HWY_ALIGN std::uint64_t order[hn::MaxLanes(d64)];
  const std::size_t half = hn::Lanes(d64) / 2;
  for (std::size_t i = 0; i < half; ++i) {
    order[2 * i] = i;
    order[2 * i + 1] = half + i;
  }
  const auto indices = hn::SetTableIndices(d64, order);
  return hn::BitCast(d8, hn::TableLookupLanes(hn::BitCast(d64, v), indices));
#endif
}

template <typename Layout>
HWY_INLINE V8 TableIndices(V8 codes) {
  const D8 d8;
  const V8 magnitude = hn::And(codes, hn::Set(d8, 0x7F));
  return hn::Min(magnitude,
                 hn::OrAnd(hn::Set(d8, Layout::kHidden), codes, hn::Set(d8, Layout::kMantissa)));
}

template <bool kStream>
HWY_INLINE void Put(hn::Vec<D16> v, std::uint16_t* to) {
  const D16 d16;
  if constexpr (kStream) {
    hn::Stream(v, d16, to);
  } else {
    hn::StoreU(v, d16, to);
  }
}

// Joins the planes, adds exponents and signs, and stores; all operands have spread halves.
template <typename Layout, bool kStream>
HWY_INLINE void Join(V8 codes, V8 low, V8 high, std::uint16_t* to) {
  const D8 d8;
  const D16 d16;
  const hn::RebindToSigned<D16> di16;
  const V8 zero = hn::Zero(d8);
  // A code in the upper byte, moved right with its sign: the exponent is at its place.
  constexpr int kMove = Layout::kMantissaBits + 1;
  const auto mask = hn::Set(d16, static_cast<std::uint16_t>(0x8000 | (0x7F00 >> kMove & ~0x7F)));
  const auto place = [&](hn::Vec<D16> upper) HWY_ATTR {
    return hn::And(hn::BitCast(d16, hn::ShiftRight<kMove>(hn::BitCast(di16, upper))), mask);
  };
  const auto first = place(hn::BitCast(d16, hn::InterleaveLower(d8, zero, codes)));
  const auto second = place(hn::BitCast(d16, hn::InterleaveUpper(d8, zero, codes)));
  Put<kStream>(hn::Add(hn::BitCast(d16, hn::InterleaveLower(d8, low, high)), first), to);
  Put<kStream>(hn::Add(hn::BitCast(d16, hn::InterleaveUpper(d8, low, high)), second),
               to + hn::Lanes(d16));
}

HWY_INLINE V8 TableLow(const BlockTable& table) { return hn::LoadDup128(D8(), table.low.data()); }
HWY_INLINE V8 TableHigh(const BlockTable& table) { return hn::LoadDup128(D8(), table.high.data()); }

// Looks up the first `count` of a vector of codes from `position` on, whose halves are spread, in
// the tables of as many runs as they lie in. `run` is the run of the first of them, then that of
// the last.
template <typename Layout>
HWY_INLINE void LookUpAcross(V8 codes, std::size_t position, std::size_t count,
                             const BlockTables& tables, RunWalker& run, V8& low, V8& high) {
  const D8 d8;
  const V8 order = SpreadHalves(hn::Iota(d8, 0));
  const V8 indices = TableIndices<Layout>(codes);
  low = hn::TableLookupBytes(TableLow(tables[run.block()]), indices);
  high = hn::TableLookupBytes(TableHigh(tables[run.block()]), indices);
  while (run.end() - position < count) {
    const auto before = hn::Lt(order, hn::Set(d8, static_cast<std::uint8_t>(run.end() - position)));
    run.Next();
    const BlockTable& table = tables[run.block()];
    low = hn::IfThenElse(before, low, hn::TableLookupBytes(TableLow(table), indices));
    high = hn::IfThenElse(before, high, hn::TableLookupBytes(TableHigh(table), indices));
  }
}

// Fewer elements than a vector, through buffers: nothing beyond them is read or written.
template <typename Layout>
void DecodePart(const std::uint8_t* HWY_RESTRICT from, std::size_t position, std::size_t count,
                const BlockTables& tables, RunWalker& run, V8& largest,
                std::uint16_t* HWY_RESTRICT to) {
  const D8 d8;
  HWY_ALIGN std::uint8_t codes[hn::MaxLanes(d8)] = {};
  HWY_ALIGN std::uint16_t results[hn::MaxLanes(d8)];
  std::memcpy(codes, from, count);
  const V8 v = SpreadHalves(hn::Load(d8, codes));
  V8 low = v;
  V8 high = v;
  LookUpAcross<Layout>(v, position, count, tables, run, low, high);
  Join<Layout, false>(v, low, high, results);
  largest = hn::Max(largest, hn::And(v, hn::Set(d8, 0x7F)));
  std::memcpy(to, results, count * sizeof(*to));
}

template <typename Layout, bool kStream>
bool DecodeVectors(const DequantizePiece& piece, const BlockTables& tables,
                   std::uint16_t* HWY_RESTRICT out) {
  const D8 d8;
  const std::size_t lanes = hn::Lanes(d8);
  const V8 magnitude_mask = hn::Set(d8, 0x7F);
  const std::uint8_t* HWY_RESTRICT codes = piece.codes.data();
  const std::size_t size = piece.codes.size();
  V8 largest = hn::Zero(d8);
  std::size_t position = 0;
  RunWalker run(piece);
  const auto skip_finished_run = [&]() HWY_ATTR {
    if (run.end() == position && position < size) run.Next();
  };
  const auto decode_parts_until = [&](std::size_t end) HWY_ATTR {
    while (position < end) {
      const std::size_t count = std::min(lanes, end - position);
      DecodePart<Layout>(codes + position, position, count, tables, run, largest, out + position);
      position += count;
      skip_finished_run();
    }
  };

  if constexpr (kStream) {
    // Stores past the cache are fast only when they fill whole cache lines.
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(out) % 64;
    decode_parts_until(std::min(size, (64 - misaligned) % 64 / sizeof(*out)));
  }
  while (size - position >= lanes) {
    if (run.end() - position >= lanes) {
      const V8 table_low = TableLow(tables[run.block()]);
      const V8 table_high = TableHigh(tables[run.block()]);
      do {
        const V8 v = SpreadHalves(hn::LoadU(d8, codes + position));
        const V8 indices = TableIndices<Layout>(v);
        largest = hn::Max(largest, hn::And(v, magnitude_mask));
        Join<Layout, kStream>(v, hn::TableLookupBytes(table_low, indices),
                              hn::TableLookupBytes(table_high, indices), out + position);
        position += lanes;
      } while (run.end() - position >= lanes);
    } else {
      const V8 v = SpreadHalves(hn::LoadU(d8, codes + position));
      V8 low = v;
      V8 high = v;
      LookUpAcross<Layout>(v, position, lanes, tables, run, low, high);
      largest = hn::Max(largest, hn::And(v, magnitude_mask));
      Join<Layout, kStream>(v, low, high, out + position);
      position += lanes;
    }
    skip_finished_run();
  }
  decode_parts_until(size);
  return !hn::AllFalse(d8, hn::Gt(largest, hn::Set(d8, Layout::kFirstSpecial - 1)));
}

template <typename Layout>
bool Decode(const DequantizePiece& piece, const BlockTables& tables, bool stream,
            std::uint16_t* HWY_RESTRICT out) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(out) % sizeof(*out) == 0;
  if (!stream || !aligned) return DecodeVectors<Layout, false>(piece, tables, out);
  const bool any_special = DecodeVectors<Layout, true>(piece, tables, out);
  // The stores must be complete before the results are corrected or handed to another thread.
  hwy::FlushStream();
  return any_special;
}

#endif  // HWY_TARGET == HWY_SCALAR

template <typename Layout>
void RunLayout(const DequantizePiece& piece, bool stream, std::uint16_t* out,
               DequantizeCounts& counts) {
  alignas(64) BlockTables tables;
  bool all_regular = true;
  std::size_t block = 0;
  do {  // a piece has at least one block
    MakeTable(piece.scales[block], tables[block]);
    if constexpr (Layout::kFormat == Fp8Format::kE5M2) MakeE5M2Table(tables[block]);
    all_regular = all_regular && IsRegular<Layout>(piece.scales[block]);
  } while (++block < piece.scales.size());
  const bool any_special = Decode<Layout>(piece, tables, stream, out);
  if (!all_regular) CorrectIrregularBlocks<Layout>(piece, out);
  if (any_special) counts.nan_codes += CorrectSpecialCodes<Layout>(piece, out);
}

void RunPiece(const DequantizePiece& piece, bool stream, std::uint16_t* out,
              DequantizeCounts& counts) {
  if (piece.format == Fp8Format::kE4M3) {
    RunLayout<E4M3>(piece, stream, out, counts);
  } else {
    RunLayout<E5M2>(piece, stream, out, counts);
  }
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {

HWY_EXPORT(RunPiece);
HWY_EXPORT(TargetName);

void DequantizePieceBest(const DequantizePiece& piece, bool stream, std::uint16_t* out,
                         DequantizeCounts& counts) {
  HWY_DYNAMIC_DISPATCH(RunPiece)(piece, stream, out, counts);
}

const char* BestTargetName() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace internal

const char* KernelTargetName() { return internal::BestTargetName(); }

}  // namespace dsv3::quant
#endif  // HWY_ONCE

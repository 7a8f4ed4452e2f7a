#include "quant/dequantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/block_table.h"
#include "quant/codec.h"
#include "quant/dequantize_piece.h"
#include "quant/rounding.h"

namespace dsv3::quant {
namespace internal {

std::uint16_t DequantizeCode(Fp8Format format, std::uint8_t code, float scale) {
  constexpr std::uint16_t kNan = 0x7FC0;
  const bool e4m3 = format == Fp8Format::kE4M3;
  const auto scale_bits = std::bit_cast<std::uint32_t>(scale);
  const std::uint32_t scale_magnitude = scale_bits & ~kFloatSign;
  const std::uint32_t code_magnitude = code & 0x7FU;
  const auto code_sign = static_cast<std::uint16_t>((code & 0x80U) << 8);
  if (IsNanCode(format, code)) return code_sign | kNan;
  const bool infinite_code = !e4m3 && code_magnitude == kE5M2Infinity;
  const auto sign = static_cast<std::uint16_t>(code_sign ^ ((scale_bits & kFloatSign) >> 16));
  if (scale_magnitude >= kFloatInfinity || infinite_code) {
    const bool nan =
        scale_magnitude > kFloatInfinity || scale_magnitude == 0 || code_magnitude == 0;
    return static_cast<std::uint16_t>(sign | (nan ? kNan : kFloatInfinity >> 16));
  }
  // The exact product of the two significands has at most 28 bits; round it as the float
  // multiplication does, then once more to BF16.
  const std::uint32_t mantissa_bits = e4m3 ? 3 : 2;
  const int smallest_exponent = e4m3 ? -9 : -16;  // of a code whose significand is 1
  const std::uint32_t field = code_magnitude >> mantissa_bits;
  const std::uint32_t hidden = field == 0 ? 0U : 1U << mantissa_bits;
  const std::uint32_t significand = (code_magnitude & ((1U << mantissa_bits) - 1)) | hidden;
  const FloatParts parts = SplitFloat(scale_magnitude);
  const int code_exponent = std::max(static_cast<int>(field), 1) - 1 + smallest_exponent;
  const std::uint64_t product = std::uint64_t{significand} * parts.significand;
  const std::uint64_t as_float =
      RoundToFormat(product, parts.exponent + code_exponent, kFloatMantissaBits, kFloatBias);
  const auto capped = static_cast<std::uint32_t>(std::min<std::uint64_t>(as_float, kFloatInfinity));
  return static_cast<std::uint16_t>(sign | EncodeBF16(std::bit_cast<float>(capped)));
}

namespace {

// Calls `work(piece, position)` for consecutive pieces that together make the span.
template <typename Work>
void ForEachPiece(Fp8Format format, const DequantizeSpan& in, const Work& work) {
  const std::uint64_t blocks_per_row = (in.cols - 1) / in.block.cols + 1;
  const std::uint64_t first_scale_row = in.first / in.cols / in.block.rows;
  std::uint64_t position = 0;
  while (position < in.codes.size()) {
    const std::uint64_t element = in.first + position;
    const std::uint64_t row = element / in.cols;
    const std::uint64_t column = element % in.cols;
    const std::uint64_t scale_row = row / in.block.rows;
    const std::uint64_t left = in.codes.size() - position;

    std::uint64_t size = left;
    if (blocks_per_row <= kMaxPieceBlocks) {
      // All that is left of the scale row's band, which is contiguous.
      const std::uint64_t rows = in.block.rows - row % in.block.rows;
      if (rows <= (column + left) / in.cols) size = rows * in.cols - column;
    } else {
      const std::uint64_t last_block = column / in.block.cols + kMaxPieceBlocks;
      const std::uint64_t end = last_block < blocks_per_row ? last_block * in.block.cols : in.cols;
      size = std::min(left, end - column);
    }
    const bool one_row = size <= in.cols - column;
    const std::uint64_t first_block = one_row ? column / in.block.cols : 0;
    const std::uint64_t end_block =
        one_row ? (column + size - 1) / in.block.cols + 1 : blocks_per_row;

    DequantizePiece piece;
    piece.format = format;
    piece.codes = in.codes.subspan(position, size);
    piece.scales = in.scales.subspan((scale_row - first_scale_row) * blocks_per_row + first_block,
                                     end_block - first_block);
    piece.first_block = first_block;
    piece.column = column;
    piece.cols = in.cols;
    piece.block_cols = in.block.cols;
    work(piece, position);
    position += size;
  }
}

void DequantizeScalar(Fp8Format format, const DequantizeSpan& in, std::uint16_t* out,
                      DequantizeCounts& counts) {
  const std::uint64_t blocks_per_row = (in.cols - 1) / in.block.cols + 1;
  const std::uint64_t first_scale_row = in.first / in.cols / in.block.rows;
  for (std::uint64_t i = 0; i < in.codes.size(); ++i) {
    const std::uint64_t row = (in.first + i) / in.cols;
    const std::uint64_t column = (in.first + i) % in.cols;
    const std::uint64_t scale_row = row / in.block.rows - first_scale_row;
    const float scale = in.scales[scale_row * blocks_per_row + column / in.block.cols];
    out[i] = DequantizeCode(format, in.codes[i], scale);
    if (IsNanCode(format, in.codes[i])) ++counts.nan_codes;
  }
}

}  // namespace
}  // namespace internal

void DequantizeToBF16(Fp8Format format, const DequantizeSpan& in, std::uint16_t* out,
                      DequantizeCounts& counts) {
  // A large result outlives the caches before anyone reads it: do not read its lines into them.
  const bool stream = in.codes.size() >= internal::kStreamElements;
  internal::ForEachPiece(format, in,
                         [&](const internal::DequantizePiece& piece, std::uint64_t position) {
                           internal::DequantizePieceBest(piece, stream, out + position, counts);
                         });
}

void DequantizeE4M3ToBF16(const DequantizeSpan& in, std::uint16_t* out, DequantizeCounts& counts) {
  DequantizeToBF16(Fp8Format::kE4M3, in, out, counts);
}

void DequantizeE5M2ToBF16(const DequantizeSpan& in, std::uint16_t* out, DequantizeCounts& counts) {
  DequantizeToBF16(Fp8Format::kE5M2, in, out, counts);
}

void DequantizeE4M3ToBF16Scalar(const DequantizeSpan& in, std::uint16_t* out,
                                DequantizeCounts& counts) {
  internal::DequantizeScalar(Fp8Format::kE4M3, in, out, counts);
}

void DequantizeE5M2ToBF16Scalar(const DequantizeSpan& in, std::uint16_t* out,
                                DequantizeCounts& counts) {
  internal::DequantizeScalar(Fp8Format::kE5M2, in, out, counts);
}

void DecodeScales(ScaleFormat format, std::span<const std::byte> bytes, std::vector<float>& out) {
  const auto byte = [&bytes](std::size_t at) { return std::to_integer<std::uint32_t>(bytes[at]); };
  out.clear();
  switch (format) {
    case ScaleFormat::kF32:
      out.reserve(bytes.size() / 4);
      for (std::size_t i = 0; i + 4 <= bytes.size(); i += 4) {
        out.push_back(std::bit_cast<float>(byte(i) | byte(i + 1) << 8 | byte(i + 2) << 16 |
                                           byte(i + 3) << 24));
      }
      return;
    case ScaleFormat::kBF16:
      out.reserve(bytes.size() / 2);
      for (std::size_t i = 0; i + 2 <= bytes.size(); i += 2) {
        out.push_back(DecodeBF16(static_cast<std::uint16_t>(byte(i) | byte(i + 1) << 8)));
      }
      return;
    case ScaleFormat::kE8M0:
      out.reserve(bytes.size());
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        out.push_back(DecodeE8M0(static_cast<std::uint8_t>(byte(i))));
      }
      return;
    case ScaleFormat::kF16:
      out.reserve(bytes.size() / 2);
      for (std::size_t i = 0; i + 2 <= bytes.size(); i += 2) {
        out.push_back(DecodeF16(static_cast<std::uint16_t>(byte(i) | byte(i + 1) << 8)));
      }
      return;
    case ScaleFormat::kE4M3: {
      // NVFP4 has a scale for 16 codes, too many to decode them one by one.
      static const std::array<float, 256> kValues = [] {
        std::array<float, 256> values{};
        for (std::size_t i = 0; i < values.size(); ++i) {
          values[i] = DecodeE4M3(static_cast<std::uint8_t>(i));
        }
        return values;
      }();
      out.resize(bytes.size());
      for (std::size_t i = 0; i < bytes.size(); ++i) out[i] = kValues[byte(i)];
      return;
    }
  }
}

}  // namespace dsv3::quant

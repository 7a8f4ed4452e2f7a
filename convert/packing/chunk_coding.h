#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "formats/dtype.h"
#include "quant/planes.h"

// What the encoder and the decoder of chunks share: the skippable frame before the planes.
namespace dsv3::convert {

inline constexpr std::uint32_t kCodingMagic = 0x184D2A50;
inline constexpr unsigned kCodingVersion = 1;

// The numbers are those of the files.
enum class ChunkCoding : std::uint8_t {
  kBytes = 0,               // plane k: byte k of each element
  kFloats = 1,              // the same of 2-byte floats that are rotated left by one bit
  kIntegerDifferences = 2,  // the same of the differences from the base
  kFloatDifferences = 3,
  kSparseIntegers = 4,  // gaps between elements that differ from the base; planes of differences
  kSparseFloats = 5,
  kSmallIntegers = 6,  // a byte for each difference, and planes of the large ones
  kSmallFloats = 7,
  kEqual = 8,  // no planes: the chunk is the base
};
inline constexpr unsigned kNumCodings = 9;

constexpr bool IsSparse(ChunkCoding coding) {
  return coding == ChunkCoding::kSparseIntegers || coding == ChunkCoding::kSparseFloats;
}

constexpr bool IsSmall(ChunkCoding coding) {
  return coding == ChunkCoding::kSmallIntegers || coding == ChunkCoding::kSmallFloats;
}

constexpr bool NeedsBase(ChunkCoding coding) { return coding >= ChunkCoding::kIntegerDifferences; }

// The order of a coding by differences.
constexpr quant::NumberOrder OrderOf(ChunkCoding coding) {
  return coding == ChunkCoding::kFloatDifferences || coding == ChunkCoding::kSparseFloats ||
                 coding == ChunkCoding::kSmallFloats
             ? quant::NumberOrder::kFloat
             : quant::NumberOrder::kInteger;
}

// The content of the skippable frame, little-endian:
//   u8 version, u8 coding, u8 bytes of an element, u8 number of planes, u32 raw bytes of the chunk,
//   u32 CRC-32 of these 8 bytes and, behind them, of the raw chunk where the coding needs the base
struct CodingFrame {
  std::uint8_t version = kCodingVersion;
  ChunkCoding coding = ChunkCoding::kBytes;
  std::uint8_t width = 1;
  std::uint8_t num_planes = 0;
  std::uint32_t raw_bytes = 0;
};
inline constexpr std::size_t kCodingHeadBytes = 8;
inline constexpr std::size_t kCodingFrameBytes = 20;  // with the skippable frame's head

// Whether a coding with elements of this width may have so many planes. No plane is empty, so there
// are none of large differences where all are small.
constexpr bool PlanesFit(ChunkCoding coding, unsigned width, std::size_t planes) {
  if (coding == ChunkCoding::kEqual) return planes == 0;
  if (IsSmall(coding)) return planes == 1 || planes == width + 1;
  return planes == width + (IsSparse(coding) ? 1 : 0);
}

// The most bytes that the gaps between `changed` of `elements` elements take.
constexpr std::size_t MaxGapBytes(std::size_t elements, std::size_t changed) {
  return changed + elements / 255;
}

}  // namespace dsv3::convert

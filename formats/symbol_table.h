#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "formats/huffman_code.h"

namespace dsv3::formats {

// Decodes streams of Huffman codes (RFC 8878, 4.2.2) by tables of what the next 11 bits say: one
// symbol, or as many as they hold, up to four.
class SymbolTable {
 public:
  // The lengths of the codes, of which each bit pattern begins with one: 0 for no code, else up to
  // 11.
  void Set(const std::array<std::uint8_t, 256>& lengths);

  // Fill `out` from one stream, or from four with their sizes before them. Return whether the
  // streams end where the symbols do; otherwise `out` may be overwritten in part.
  bool DecodeStream(std::span<const std::byte> stream, std::span<std::byte> out) const;
  bool DecodeFourStreams(std::span<const std::byte> streams, std::span<std::byte> out);

 private:
  static constexpr std::size_t kEntries = std::size_t{1} << kLongestHuffmanCode;

  // The second table, made where it is worth it; null where most entries hold one symbol.
  const std::uint64_t* Multiple(std::size_t symbols);

  std::array<std::uint16_t, kEntries> single_;    // from the lowest byte: bits, symbol
  std::array<std::uint64_t, kEntries> multiple_;  // bits, number of symbols, 0, 0, four symbols
  bool is_made_ = false;                          // multiple_
  bool use_multiple_ = false;                     // whether most entries hold several symbols
};

}  // namespace dsv3::formats

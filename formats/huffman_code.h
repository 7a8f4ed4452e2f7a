#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

// Huffman codes of bytes as Zstandard has them (RFC 8878, 4.2): at most 11 bits long.
namespace dsv3::formats {

inline constexpr unsigned kLongestHuffmanCode = 11;

// How often each byte occurs.
using ByteCounts = std::array<std::uint32_t, 256>;

struct HuffmanCode {
  // Bits of each symbol's code; 0 for symbols that have none.
  std::array<std::uint8_t, 256> lengths{};
  // The codes themselves, in the lowest bits; decoders read the highest of these first.
  std::array<std::uint16_t, 256> codes{};
  unsigned longest = 0;
};

// The code that makes the fewest bits of symbols with these counts, each of which is below 2^24.
// Precondition: two counts at least are not 0. The result depends on the counts alone.
HuffmanCode MakeHuffmanCode(const ByteCounts& counts);

// The bytes by which a decoder learns the code (4.2.1): the length of each code, by 4 bits each or
// as a finite state entropy stream, whichever is shorter.
std::vector<std::byte> DescribeHuffmanCode(const HuffmanCode& code);

}  // namespace dsv3::formats

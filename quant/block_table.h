#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "quant/rounding.h"

// What BF16(float(code) × scale) is for all codes of one block, as two tables of sixteen bytes, so
// that a byte shuffle per table looks up a vector of codes. Internal to quant/.
//
// Rounding to nearest even commutes with multiplication by powers of two while nothing leaves the
// range of normal numbers. So within a block the BF16 mantissa of code × scale depends only on the
// code's mantissa, and the code's exponent is added to the result's. Sixteen entries describe a
// block: eight for the mantissas of normal codes, as if their exponent field were 0, and eight for
// subnormal codes, which have no exponent to add.
namespace dsv3::quant::internal {

// The BF16 results of one block, in two byte planes. Entries 8 to 15 belong to the normal codes of
// that significand and lack the code's exponent field, entries 0 to 7 to the subnormal codes. The
// scale's sign is in the entries.
struct alignas(16) BlockTable {
  std::array<std::uint8_t, 16> low;
  std::array<std::uint8_t, 16> high;
};

inline std::uint32_t TableIndex(std::uint8_t code) {
  return std::min<std::uint32_t>(code & 0x7FU, (code & 0x07U) | 0x08U);
}

// The exponent field and the sign of a code at their places in BF16. The sum with a table's entry
// never carries into bit 15, where adding the sign is the xor of both signs.
inline std::uint32_t ExponentAndSign(std::uint8_t code) {
  return ((code & 0x78U) << 4) | ((code & 0x80U) << 8);
}

inline std::uint16_t LookUp(const BlockTable& table, std::uint8_t code) {
  const std::uint32_t index = TableIndex(code);
  const std::uint32_t entry = table.low[index] | std::uint32_t{table.high[index]} << 8;
  return static_cast<std::uint16_t>(entry + ExponentAndSign(code));
}

// Whether every product of a code and the scale, and its float rounding, is zero or a normal
// number of BF16: the smallest is 2^-9 × scale, the largest 448 × scale.
inline bool IsRegular(float scale) {
  const std::uint32_t field = (std::bit_cast<std::uint32_t>(scale) & ~kFloatSign) >> 23;
  return field >= 10 && field <= 245;
}

}  // namespace dsv3::quant::internal

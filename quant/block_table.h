#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "quant/dequantize.h"
#include "quant/rounding.h"

// The values of BF16(float(code) × scale) for all codes of one block, as two tables of sixteen
// bytes, so that a byte shuffle per table looks up a vector of codes. Internal to quant/.
//
// Rounding to nearest even commutes with multiplication by powers of two while nothing leaves the
// range of normal numbers. So within a block the BF16 mantissa of code × scale depends only on the
// code's mantissa, and the code's exponent is added to the result's. Sixteen entries describe a
// block: eight for the mantissas of normal codes, as if their exponent field were 0, and eight for
// subnormal codes, which have no exponent to add. E5M2 codes have two mantissa bits, so eight
// entries do: four of each kind.
namespace dsv3::quant::internal {

// The BF16 results of one block, in two byte planes. For E4M3, entries 8 to 15 belong to the normal
// codes of that significand and lack the code's exponent field, entries 0 to 7 to the subnormal
// codes; for E5M2, these are 4 to 7 and 0 to 3. The scale's sign is in the entries.
struct alignas(16) BlockTable {
  std::array<std::uint8_t, 16> low;
  std::array<std::uint8_t, 16> high;
};

// The magnitude of E5M2's infinities; larger ones are NaN.
inline constexpr std::uint32_t kE5M2Infinity = 0x7C;

// The layout of a format's codes.
struct E4M3 {
  static constexpr Fp8Format kFormat = Fp8Format::kE4M3;
  static constexpr int kMantissaBits = 3;
  static constexpr std::uint8_t kHidden = 1 << kMantissaBits;
  static constexpr std::uint8_t kMantissa = kHidden - 1;
  static constexpr std::uint8_t kFirstSpecial = 0x7F;  // NaN
  // Scales whose exponent fields are in this range make nothing but zeros and normal numbers of
  // BF16, in the product and in its float rounding: the smallest product is 2^-9 × scale, the
  // largest 448 × scale.
  static constexpr std::uint32_t kSmallestField = 10;
  static constexpr std::uint32_t kLargestField = 245;
};
struct E5M2 {
  static constexpr Fp8Format kFormat = Fp8Format::kE5M2;
  static constexpr int kMantissaBits = 2;
  static constexpr std::uint8_t kHidden = 1 << kMantissaBits;
  static constexpr std::uint8_t kMantissa = kHidden - 1;
  static constexpr std::uint8_t kFirstSpecial = kE5M2Infinity;
  // 2^-16 × scale and 57344 × scale.
  static constexpr std::uint32_t kSmallestField = 17;
  static constexpr std::uint32_t kLargestField = 238;
};

inline bool IsNanCode(Fp8Format format, std::uint8_t code) {
  return (code & 0x7FU) > (format == Fp8Format::kE4M3 ? 0x7EU : kE5M2Infinity);
}

template <typename Layout>
inline bool IsRegular(float scale) {
  const std::uint32_t field = (std::bit_cast<std::uint32_t>(scale) & ~kFloatSign) >> 23;
  return field >= Layout::kSmallestField && field <= Layout::kLargestField;
}

// The code's entry. For those at or beyond kFirstSpecial it means nothing.
template <typename Layout>
inline std::uint16_t LookUp(const BlockTable& table, std::uint8_t code) {
  constexpr std::uint32_t kExponent = 0x7FU & ~std::uint32_t{Layout::kMantissa};
  const std::uint32_t index =
      std::min<std::uint32_t>(code & 0x7FU, (code & Layout::kMantissa) | Layout::kHidden);
  const std::uint32_t entry = table.low[index] | std::uint32_t{table.high[index]} << 8;
  // The exponent field and the sign at their places in BF16. The sum with a table's entry never
  // carries into bit 15, where adding the sign is the xor of both signs.
  const std::uint32_t exponent = (code & kExponent) << (7 - Layout::kMantissaBits);
  return static_cast<std::uint16_t>(entry + (exponent | (code & 0x80U) << 8));
}

// The table of E5M2 codes from that of E4M3 codes for the same scale. A code with mantissa m is
// (4 + m) · 2^(e-17) where E4M3's with mantissa 2m is (8 + 2m) · 2^(e-10), so entries differ by
// powers of two.
inline void MakeE5M2Table(BlockTable& table) {
  const auto entry = [&table](std::uint32_t k, std::uint32_t less) {
    return (table.low[k] | std::uint32_t{table.high[k]} << 8) - (less << 7);
  };
  const std::array<std::uint32_t, 8> entries = {entry(0, 0),  entry(8, 9), entry(8, 8),
                                                entry(12, 8), entry(8, 8), entry(10, 8),
                                                entry(12, 8), entry(14, 8)};
  for (std::uint32_t k = 0; k < entries.size(); ++k) {
    table.low[k] = static_cast<std::uint8_t>(entries[k]);
    table.high[k] = static_cast<std::uint8_t>(entries[k] >> 8);
  }
}

}  // namespace dsv3::quant::internal

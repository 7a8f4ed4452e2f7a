// MakeTable, of E4M3 codes, for each instruction set; included once for each by the files that use
// foreach_target.h.
#include <bit>
#include <cstdint>

#include "quant/block_table.h"
#include "quant/dequantize_piece.h"
#include "quant/rounding.h"

#if defined(DSV3_QUANT_BLOCK_TABLE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_BLOCK_TABLE_INL_H
#undef DSV3_QUANT_BLOCK_TABLE_INL_H
#else
#define DSV3_QUANT_BLOCK_TABLE_INL_H
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

void MakeTable(float scale, BlockTable& table) {
  for (std::uint32_t k = 0; k < 16; ++k) {
    // As codes these are the subnormal ones, then those whose exponent field is 1.
    const std::uint32_t result =
        DequantizeCode(Fp8Format::kE4M3, static_cast<std::uint8_t>(k), scale);
    const std::uint32_t entry = k < 8 ? result : result - (1U << 7);
    table.low[k] = static_cast<std::uint8_t>(entry);
    table.high[k] = static_cast<std::uint8_t>(entry >> 8);
  }
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// The float rounding, then the BF16 rounding, of the significands 8 to 15 times the scale's: what
// entries 8 to 15 have above `base`, which represents the scale's exponent.
HWY_INLINE void RoundProducts(std::uint32_t scale_significand, std::uint32_t base,
                              std::uint16_t* HWY_RESTRICT entries) {
  const hn::CappedTag<std::uint32_t, 8> d32;
  const hn::RebindToSigned<decltype(d32)> di32;
  const hn::Rebind<std::uint16_t, decltype(d32)> d16;
  const auto one = hn::Set(d32, 1);
  for (std::uint32_t k = 8; k < 16; k += static_cast<std::uint32_t>(hn::Lanes(d32))) {
    const auto product = hn::Mul(hn::Iota(d32, k), hn::Set(d32, scale_significand));
    const auto carry = hn::ShiftRight<27>(product);  // the product is in [2^26, 2^28)
    const auto doubled = hn::AndNot(hn::Sub(hn::Zero(d32), carry), product);
    const auto scaled = hn::Add(product, doubled);  // in [2^27, 2^28): four bits too many
    const auto float_odd = hn::And(hn::ShiftRight<4>(scaled), one);
    const auto as_float = hn::ShiftRight<4>(hn::Add(scaled, hn::Add(float_odd, hn::Set(d32, 0x7))));
    const auto bf16_odd = hn::And(hn::ShiftRight<16>(as_float), one);
    const auto as_bf16 =
        hn::ShiftRight<16>(hn::Add(as_float, hn::Add(bf16_odd, hn::Set(d32, 0x7FFF))));
    const auto entry = hn::Add(hn::Add(as_bf16, hn::ShiftLeft<7>(carry)), hn::Set(d32, base));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, entry)), d16, entries + (k - 8));
  }
}

void MakeTable(float scale, BlockTable& table) {
  const hn::CappedTag<std::uint8_t, 16> d8;
  const hn::CappedTag<std::uint16_t, 8> d16;
  const hn::CappedTag<std::uint64_t, 2> d64;
  // For entries 0 to 7: the one of entries 8 to 15 that has their significand (none for 0), and the
  // power of two by which they are smaller, at the exponent's place.
  HWY_ALIGN static constexpr std::uint8_t kSource[16] = {0x80, 0x80, 0, 1, 0, 1, 8,  9,
                                                         0,    1,    4, 5, 8, 9, 12, 13};
  HWY_ALIGN static constexpr std::uint16_t kLess[8] = {0, 2 << 7, 1 << 7, 1 << 7, 0, 0, 0, 0};
  HWY_ALIGN static constexpr std::uint8_t kSplit[16] = {0, 2, 4, 6, 8, 10, 12, 14,
                                                        1, 3, 5, 7, 9, 11, 13, 15};
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  HWY_ALIGN std::uint16_t rounded[8];
  // The hidden bit of a rounded product adds one to the exponent.
  RoundProducts((bits & 0x007F'FFFFU) | 0x0080'0000U, (((bits & ~kFloatSign) >> 23) - 8) << 7,
                rounded);
  const auto sign = hn::Set(d16, static_cast<std::uint16_t>((bits & kFloatSign) >> 16));
  const auto normal = hn::Load(d16, rounded);
  const auto moved =
      hn::BitCast(d16, hn::TableLookupBytesOr0(hn::BitCast(d8, normal), hn::Load(d8, kSource)));
  const auto subnormal = hn::Sub(moved, hn::Load(d16, kLess));
  const auto split = hn::Load(d8, kSplit);
  const auto planes = [&](hn::Vec<decltype(d16)> entries) HWY_ATTR {
    const auto signed_entries = hn::BitCast(d8, hn::Or(entries, sign));
    return hn::BitCast(d64, hn::TableLookupBytes(signed_entries, split));
  };
  const auto first = planes(subnormal);
  const auto second = planes(normal);
  hn::Store(hn::BitCast(d8, hn::InterleaveLower(d64, first, second)), d8, table.low.data());
  hn::Store(hn::BitCast(d8, hn::InterleaveUpper(d64, first, second)), d8, table.high.data());
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard

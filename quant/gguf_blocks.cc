// The vector kernels of gguf_blocks.h, compiled once for each instruction set.
#include "quant/gguf_blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "quant/codec.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/gguf_blocks.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

void Q8Blocks(const float* values, std::size_t blocks, std::byte* out) {
  EncodeQ8_0Scalar({values, blocks * kQ8_0Elements}, out);
}

void RoundToHalves(const float* values, std::size_t count, std::uint16_t* out) {
  EncodeHalvesScalar({values, count}, out);
}

#else

// At most 16 lanes in any case, so that a block has whole vectors.
using GgufFloats = hn::CappedTag<float, 16>;
using GgufBits = hn::RebindToUnsigned<GgufFloats>;

// The F16 bits of magnitudes, given as the bits of floats without their signs; NaNs are quiet.
template <class V>
V HalvesOf(V size) {
  const GgufFloats df;
  const GgufBits du;
  const auto least_normal = hn::Set(du, 0x38800000);  // 2^-14
  const auto magic = hn::Set(df, 0.5F);               // its last place is the least subnormal F16
  // Half a unit in the last place, less one where the result would be even already.
  const auto up = hn::Add(hn::Set(du, 0xFFF), hn::And(hn::ShiftRight<13>(size), hn::Set(du, 1)));
  const auto normal = hn::Min(
      hn::Sub(hn::ShiftRight<13>(hn::Add(size, up)), hn::Set(du, 112U << 10)), hn::Set(du, 0x7C00));
  const auto subnormal =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(df, size), magic)), hn::BitCast(du, magic));
  const auto finite = hn::IfThenElse(hn::Lt(size, least_normal), subnormal, normal);
  return hn::IfThenElse(hn::Gt(size, hn::Set(du, 0x7F800000)), hn::Set(du, 0x7E00), finite);
}

// Blocks whose scales are found together, in whole vectors of their own.
constexpr std::size_t kBlocksTogether = 16;

struct BlockScales {
  // Magnitudes have the order of their bits; NaNs are behind infinity.
  HWY_ALIGN std::uint32_t most[kBlocksTogether] = {};
  HWY_ALIGN float inverses[kBlocksTogether];
  HWY_ALIGN std::uint16_t halves[kBlocksTogether];
};

void FindScales(const float* HWY_RESTRICT values, std::size_t blocks, BlockScales& scales) {
  const GgufFloats df;
  const GgufBits du;
  const hn::Rebind<std::uint16_t, GgufFloats> d16;
  const std::size_t lanes = hn::Lanes(df);
  const auto magnitude = hn::Set(du, 0x7FFFFFFF);
  for (std::size_t block = 0; block < blocks; ++block, values += kQ8_0Elements) {
    auto most = hn::Zero(du);
    for (std::size_t i = 0; i < kQ8_0Elements; i += lanes) {
      most = hn::Max(most, hn::And(hn::BitCast(du, hn::LoadU(df, values + i)), magnitude));
    }
    scales.most[block] = hn::GetLane(hn::MaxOfLanes(du, most));
  }
  for (std::size_t i = 0; i < kBlocksTogether; i += lanes) {
    const auto d = hn::Div(hn::BitCast(df, hn::Load(du, scales.most + i)), hn::Set(df, 127.0F));
    const auto inverse = hn::IfThenElseZero(hn::Ne(d, hn::Zero(df)), hn::Div(hn::Set(df, 1.0F), d));
    hn::Store(inverse, df, scales.inverses + i);
    hn::StoreU(hn::TruncateTo(d16, HalvesOf(hn::BitCast(du, d))), d16, scales.halves + i);
  }
}

void Q8Blocks(const float* HWY_RESTRICT values, std::size_t blocks, std::byte* HWY_RESTRICT out) {
  const GgufFloats df;
  const GgufBits du;
  const hn::RebindToSigned<GgufFloats> di;
  const hn::Rebind<std::uint8_t, GgufFloats> d8;
  const std::size_t lanes = hn::Lanes(df);
  // The float below a half: added to a product it makes truncating what rounding half away from
  // zero is, for the sum is rounded up to the next whole number from the half on, and not before.
  const auto below_half = hn::Set(df, 0x1.FFFFFEp-2F);
  BlockScales scales;
  while (blocks > 0) {
    const std::size_t together = std::min(blocks, kBlocksTogether);
    FindScales(values, together, scales);
    for (std::size_t block = 0; block < together; ++block) {
      const float inverse = scales.inverses[block];
      // A NaN never comes to the conversion below.
      if (scales.most[block] >= 0x7F800000U || !(inverse <= 3.4028234664e38F)) {
        EncodeQ8_0Scalar({values, kQ8_0Elements}, out);
      } else {
        std::memcpy(out, &scales.halves[block], sizeof scales.halves[block]);
        auto* const codes = reinterpret_cast<std::uint8_t*>(out + sizeof scales.halves[block]);
        const auto factor = hn::Set(df, inverse);
        for (std::size_t i = 0; i < kQ8_0Elements; i += lanes) {
          const auto product = hn::Mul(hn::LoadU(df, values + i), factor);
          const auto code =
              hn::ConvertTo(di, hn::Add(product, hn::CopySignToAbs(below_half, product)));
          hn::StoreU(hn::TruncateTo(d8, hn::BitCast(du, code)), d8, codes + i);
        }
      }
      values += kQ8_0Elements;
      out += kQ8_0Bytes;
    }
    blocks -= together;
  }
}

void RoundToHalves(const float* HWY_RESTRICT values, std::size_t count,
                   std::uint16_t* HWY_RESTRICT out) {
  const GgufFloats df;
  const GgufBits du;
  const hn::Rebind<std::uint16_t, GgufFloats> d16;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto bits = hn::BitCast(du, hn::LoadU(df, values + i));
    const auto half = HalvesOf(hn::And(bits, hn::Set(du, 0x7FFFFFFF)));
    const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000));
    hn::StoreU(hn::TruncateTo(d16, hn::Or(half, sign)), d16, out + i);
  }
  EncodeHalvesScalar({values + i, count - i}, out + i);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {
HWY_EXPORT(Q8Blocks);
HWY_EXPORT(RoundToHalves);
}  // namespace internal

void EncodeQ8_0(std::span<const float> values, std::byte* out) {
  HWY_DYNAMIC_DISPATCH(internal::Q8Blocks)(values.data(), values.size() / kQ8_0Elements, out);
}

void EncodeHalves(std::span<const float> values, std::uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(internal::RoundToHalves)(values.data(), values.size(), out);
}

void EncodeQ8_0Scalar(std::span<const float> values, std::byte* out) {
  for (; values.size() >= kQ8_0Elements; values = values.subspan(kQ8_0Elements)) {
    std::uint32_t most = 0;  // bits of magnitudes have their order, NaNs behind infinity
    for (const float value : values.first(kQ8_0Elements)) {
      most = std::max(most, std::bit_cast<std::uint32_t>(std::fabs(value)));
    }
    const float d = std::bit_cast<float>(most) / 127.0F;
    const float inverse = d == 0 ? 0.0F : 1.0F / d;
    const std::uint16_t half = EncodeF16(d);
    std::memcpy(out, &half, sizeof half);
    out += sizeof half;
    for (const float value : values.first(kQ8_0Elements)) {
      const float product = value * inverse;
      const float code = std::isfinite(product) ? std::round(product) : 0.0F;
      *out++ = static_cast<std::byte>(static_cast<std::int8_t>(code));
    }
  }
}

void EncodeHalvesScalar(std::span<const float> values, std::uint16_t* out) {
  for (const float value : values) *out++ = EncodeF16(value);
}

}  // namespace dsv3::quant
#endif  // HWY_ONCE

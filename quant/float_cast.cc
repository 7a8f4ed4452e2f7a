// The vector kernels of float_cast.h, compiled once for each instruction set. All arithmetic is on
// integers, so that the floating-point environment does not matter.
#include "quant/float_cast.h"

#include <array>
#include <bit>
#include <cstring>

#include "quant/codec.h"
#include "quant/statistics.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/float_cast.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

void RoundFloats(const std::byte* bytes, std::size_t count, std::uint16_t* out) {
  CastToBF16Scalar(FloatFormat::kF32, {bytes, 4 * count}, out);
}

#else

// Rounds floats to BF16. At most 16 lanes in any case.
void RoundFloats(const std::byte* bytes, std::size_t count, std::uint16_t* HWY_RESTRICT out) {
  using D32 = hn::CappedTag<std::uint32_t, 16>;
  const D32 d32;
  const hn::Repartition<std::uint8_t, D32> d8;
  const hn::Rebind<std::uint16_t, D32> d16;
  const std::size_t lanes = hn::Lanes(d32);
  const auto one = hn::Set(d32, 1);
  const auto half = hn::Set(d32, 0x7FFF);
  const auto magnitude = hn::Set(d32, 0x7FFFFFFF);
  const auto infinity = hn::Set(d32, 0x7F800000);
  const auto sign = hn::Set(d32, 0x8000);
  const auto quiet = hn::Set(d32, 0x7FC0);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto bits =
        hn::BitCast(d32, hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(bytes + 4 * i)));
    // Half a unit in the last place, less one where the result would be even already.
    const auto up = hn::Add(half, hn::And(hn::ShiftRight<16>(bits), one));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, up));
    const auto nan = hn::Or(hn::And(hn::ShiftRight<16>(bits), sign), quiet);
    const auto is_nan = hn::Gt(hn::And(bits, magnitude), infinity);
    hn::StoreU(hn::TruncateTo(d16, hn::IfThenElse(is_nan, nan, rounded)), d16, out + i);
  }
  CastToBF16Scalar(FloatFormat::kF32, {bytes + 4 * i, 4 * (count - i)}, out + i);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant {
namespace internal {
HWY_EXPORT(RoundFloats);
}  // namespace internal

namespace {

// F16 values are decoded to floats, which are exact, so many at a time that they stay in the cache.
constexpr std::size_t kTogether = 1024;

void CastHalves(std::span<const std::byte> bytes, std::uint16_t* out) {
  std::array<float, kTogether> values;
  while (!bytes.empty()) {
    const std::size_t count = std::min(kTogether, bytes.size() / 2);
    DecodeFloats(StoredFloat::kF16, bytes.first(2 * count), values.data());
    HWY_DYNAMIC_DISPATCH(internal::RoundFloats)
    (reinterpret_cast<const std::byte*>(values.data()), count, out);
    bytes = bytes.subspan(2 * count);
    out += count;
  }
}

}  // namespace

void CastToBF16(FloatFormat format, std::span<const std::byte> bytes, std::uint16_t* out) {
  switch (format) {
    case FloatFormat::kBF16:
      std::memcpy(out, bytes.data(), bytes.size());
      return;
    case FloatFormat::kF16:
      return CastHalves(bytes, out);
    case FloatFormat::kF32:
      HWY_DYNAMIC_DISPATCH(internal::RoundFloats)(bytes.data(), bytes.size() / 4, out);
      return;
  }
}

void CastToBF16Scalar(FloatFormat format, std::span<const std::byte> bytes, std::uint16_t* out) {
  const std::size_t width = format == FloatFormat::kF32 ? 4 : 2;
  for (std::size_t at = 0; at < bytes.size(); at += width, ++out) {
    if (format == FloatFormat::kF32) {
      float value = 0;
      std::memcpy(&value, bytes.data() + at, sizeof value);
      *out = EncodeBF16(value);
      continue;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + at, sizeof bits);
    *out = format == FloatFormat::kBF16 ? bits : EncodeBF16(DecodeF16(bits));
  }
}

}  // namespace dsv3::quant
#endif  // HWY_ONCE

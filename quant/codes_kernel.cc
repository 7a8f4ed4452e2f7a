// The vector kernels of INT8, INT4 and E2M1 codes, compiled once for each instruction set.
//
// The sixteen codes of four bits give sixteen results for each scale. These are made in one or a
// few vectors and looked up by two byte shuffles, one for the lower and one for the upper bytes of
// the results. Codes of eight bits are computed.
//
// Results that go past the caches are made in a small buffer first and copied from there: stores
// past the caches are fast only when they fill whole cache lines, and runs of one scale do not.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/codec.h"
#include "quant/codes_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/codes_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

#ifndef DSV3_QUANT_CODES_KERNEL_ONCE
#define DSV3_QUANT_CODES_KERNEL_ONCE
namespace dsv3::quant::internal {

// Results that are made at a time before they are streamed; they stay in the L1 cache.
inline constexpr std::size_t kStreamBuffer = 4096;

}  // namespace dsv3::quant::internal
#endif  // DSV3_QUANT_CODES_KERNEL_ONCE

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

struct ResultTable {
  std::array<std::uint16_t, 16> results;

  std::uint16_t Of(std::uint8_t code) const { return results[code]; }
};

void MakeResults(const float* values, float zero, float scale, ResultTable& table) {
  for (std::size_t i = 0; i < 16; ++i) table.results[i] = ScaleToBF16(values[i], zero, scale);
}

// Whole bytes; returns how many elements it made.
std::size_t LookUp(const std::uint8_t* /*codes*/, std::size_t /*bytes*/,
                   const ResultTable& /*table*/, std::uint16_t* /*out*/) {
  return 0;
}

std::size_t Compute(const std::uint8_t* /*codes*/, std::size_t /*count*/, float /*zero*/,
                    float /*scale*/, std::uint16_t* /*out*/) {
  return 0;
}

void StreamOut(const std::uint16_t* from, std::size_t count, std::uint16_t* to) {
  std::memcpy(to, from, count * sizeof(*to));
}

#else

using D8 = hn::FixedTag<std::uint8_t, 16>;
using D16 = hn::FixedTag<std::uint16_t, 8>;
using V8 = hn::Vec<D8>;

// BF16 of floats in the lower halves of 32-bit lanes.
template <class DF, class VF>
HWY_INLINE hn::Vec<hn::RebindToSigned<DF>> RoundLanes(DF /*df*/, VF value) {
  const hn::RebindToUnsigned<DF> du;
  const hn::RebindToSigned<DF> di;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7FFF)), odd));
  const auto magnitude = hn::BitCast(di, hn::And(bits, hn::Set(du, 0x7FFF'FFFF)));
  const auto nan = hn::Gt(magnitude, hn::Set(di, 0x7F80'0000));
  return hn::IfThenElse(nan, hn::Set(di, 0x7FC0), hn::BitCast(di, rounded));
}

// The results of sixteen codes: their lower and their upper bytes.
struct ResultTable {
  HWY_ALIGN std::array<std::uint16_t, 16> results;

  std::uint16_t Of(std::uint8_t code) const { return results[code]; }
};

HWY_INLINE void MakeResults(const float* HWY_RESTRICT values, float zero, float scale,
                            ResultTable& table) {
  const hn::CappedTag<float, 16> df;
  const hn::Rebind<std::uint16_t, decltype(df)> d16;
  for (std::size_t i = 0; i < 16; i += hn::Lanes(df)) {
    const auto value = hn::Sub(hn::LoadU(df, values + i), hn::Set(df, zero));
    const auto rounded = RoundLanes(df, hn::Mul(value, hn::Set(df, scale)));
    hn::StoreU(hn::DemoteTo(d16, rounded), d16, table.results.data() + i);
  }
}

HWY_INLINE void StoreResults(V8 low, V8 high, V8 codes, std::uint16_t* HWY_RESTRICT to) {
  const D8 d8;
  const D16 d16;
  const V8 lower = hn::TableLookupBytes(low, codes);
  const V8 upper = hn::TableLookupBytes(high, codes);
  hn::StoreU(hn::BitCast(d16, hn::InterleaveLower(d8, lower, upper)), d16, to);
  hn::StoreU(hn::BitCast(d16, hn::InterleaveUpper(d8, lower, upper)), d16, to + 8);
}

HWY_INLINE std::size_t LookUp(const std::uint8_t* HWY_RESTRICT codes, std::size_t bytes,
                              const ResultTable& table, std::uint16_t* HWY_RESTRICT out) {
  const D8 d8;
  const D16 d16;
  const hn::FixedTag<std::uint64_t, 2> d64;
  HWY_ALIGN static constexpr std::uint8_t kSplit[16] = {0, 2, 4, 6, 8, 10, 12, 14,
                                                        1, 3, 5, 7, 9, 11, 13, 15};
  const V8 split = hn::Load(d8, kSplit);
  const auto first = hn::BitCast(
      d64, hn::TableLookupBytes(hn::BitCast(d8, hn::LoadU(d16, table.results.data())), split));
  const auto second = hn::BitCast(
      d64, hn::TableLookupBytes(hn::BitCast(d8, hn::LoadU(d16, table.results.data() + 8)), split));
  const V8 low = hn::BitCast(d8, hn::InterleaveLower(d64, first, second));
  const V8 high = hn::BitCast(d8, hn::InterleaveUpper(d64, first, second));
  const V8 nibble = hn::Set(d8, 0x0F);
  const auto odd_codes = [&](V8 both) HWY_ATTR {
    return hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both))), nibble);
  };
  std::size_t done = 0;
  for (; bytes - done >= 16; done += 16) {
    const V8 both = hn::LoadU(d8, codes + done);
    const V8 even = hn::And(both, nibble);
    const V8 odd = odd_codes(both);
    StoreResults(low, high, hn::InterleaveLower(d8, even, odd), out + 2 * done);
    StoreResults(low, high, hn::InterleaveUpper(d8, even, odd), out + 2 * done + 16);
  }
  if (bytes - done >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, codes + done, sizeof word);
    const V8 both = hn::BitCast(d8, hn::Set(d64, word));
    StoreResults(low, high, hn::InterleaveLower(d8, hn::And(both, nibble), odd_codes(both)),
                 out + 2 * done);
    done += 8;
  }
  return 2 * done;
}

std::size_t Compute(const std::uint8_t* HWY_RESTRICT codes, std::size_t count, float zero,
                    float scale, std::uint16_t* HWY_RESTRICT out) {
  const hn::ScalableTag<float> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<std::int8_t, decltype(df)> d8;
  const hn::Rebind<std::uint16_t, decltype(df)> d16;
  const auto zeros = hn::Set(df, zero);
  const auto scales = hn::Set(df, scale);
  const std::size_t lanes = hn::Lanes(df);
  const auto* const from = reinterpret_cast<const std::int8_t*>(codes);
  std::size_t done = 0;
  for (; count - done >= lanes; done += lanes) {
    const auto value = hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(d8, from + done)));
    const auto rounded = RoundLanes(df, hn::Mul(hn::Sub(value, zeros), scales));
    hn::StoreU(hn::DemoteTo(d16, rounded), d16, out + done);
  }
  return done;
}

// Copies past the caches. `to` is aligned for its elements.
HWY_INLINE void StreamOut(const std::uint16_t* HWY_RESTRICT from, std::size_t count,
                          std::uint16_t* HWY_RESTRICT to) {
  const hn::ScalableTag<std::uint16_t> d16;
  const std::size_t lanes = hn::Lanes(d16);
  constexpr std::size_t kLine = 64;
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(to) % kLine;
  std::size_t done = std::min(count, (kLine - misaligned) % kLine / sizeof(*to));
  std::memcpy(to, from, done * sizeof(*to));
  const std::size_t lines = (count - done) / (kLine / sizeof(*to)) * (kLine / sizeof(*to));
  if (lanes <= kLine / sizeof(*to)) {
    for (const std::size_t end = done + lines; done < end; done += lanes) {
      hn::Stream(hn::LoadU(d16, from + done), d16, to + done);
    }
  }
  std::memcpy(to + done, from + done, (count - done) * sizeof(*to));
}

#endif  // HWY_TARGET == HWY_SCALAR

// The elements of a span, in the order of memory and in portions.
class Decoder {
 public:
  Decoder(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements)
      : format_(format), in_(in), run_(in, elements), left_in_run_(run_.size()) {
    if (CodeBits(format) == 4) values_ = ValuesOfCodes(format);
    StartRun();
  }

  // The next `count` elements; an even number of codes of four bits, unless they are the last.
  void Decode(std::size_t count, std::uint16_t* HWY_RESTRICT out) {
    while (count != 0) {
      const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(count, left_in_run_));
      if (values_ != nullptr) {
        DecodeHalves(size, out);
      } else {
        DecodeBytes(size, out);
      }
      element_ += size;
      left_in_run_ -= size;
      out += size;
      count -= size;
      if (left_in_run_ != 0) continue;
      run_.Next();
      left_in_run_ = run_.size();
      StartRun();
    }
  }

 private:
  void StartRun() {
    if (left_in_run_ == 0) return;
    scale_ = in_.scales[run_.scale()];
    zero_ = ZeroOf(in_, run_.scale());
    if (values_ != nullptr) MakeResults(values_, zero_, scale_, table_);
  }

  void DecodeHalves(std::size_t size, std::uint16_t* HWY_RESTRICT out) {
    std::size_t done = 0;
    if (element_ % 2 != 0) out[done++] = table_.Of(CodeAt(format_, in_, element_));
    done += LookUp(in_.codes.data() + (element_ + done) / 2, (size - done) / 2, table_, out + done);
    for (; done < size; ++done) out[done] = table_.Of(CodeAt(format_, in_, element_ + done));
  }

  void DecodeBytes(std::size_t size, std::uint16_t* HWY_RESTRICT out) {
    const std::uint8_t* const codes = in_.codes.data() + element_;
    std::size_t done = Compute(codes, size, zero_, scale_, out);
    for (; done < size; ++done) {
      out[done] =
          ScaleToBF16(static_cast<float>(static_cast<std::int8_t>(codes[done])), zero_, scale_);
    }
  }

  const CodeFormat format_;
  const DequantizeSpan& in_;
  ScaleRuns run_;
  std::uint64_t left_in_run_;
  std::uint64_t element_ = 0;
  const float* values_ = nullptr;  // of codes of four bits
  float scale_ = 0;
  float zero_ = 0;
  ResultTable table_;
};

void RunCodes(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements, bool stream,
              std::uint16_t* out) {
  Decoder decoder(format, in, elements);
  const bool aligned = reinterpret_cast<std::uintptr_t>(out) % sizeof(*out) == 0;
  if (!stream || !aligned) return decoder.Decode(static_cast<std::size_t>(elements), out);
  alignas(64) std::array<std::uint16_t, kStreamBuffer> buffer;
  for (std::uint64_t done = 0; done < elements;) {
    const auto size =
        static_cast<std::size_t>(std::min<std::uint64_t>(elements - done, buffer.size()));
    decoder.Decode(size, buffer.data());
    StreamOut(buffer.data(), size, out + done);
    done += size;
  }
  // The stores must be complete before the results are handed to another thread.
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(RunCodes);

void DequantizeCodesBest(CodeFormat format, const DequantizeSpan& in, std::uint64_t elements,
                         bool stream, std::uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(RunCodes)(format, in, elements, stream, out);
}

std::uint16_t ScaleToBF16(float value, float zero, float scale) {
  return RoundToBF16((value - zero) * scale);
}

const float* ValuesOfCodes(CodeFormat format) {
  const auto all = [](CodeFormat of) {
    std::array<float, 16> values{};
    for (std::uint8_t code = 0; code < 16; ++code) values[code] = DecodeCode(of, code);
    return values;
  };
  static const std::array<float, 16> kSigned = all(CodeFormat::kI4);
  static const std::array<float, 16> kOffset = all(CodeFormat::kI4Offset);
  static const std::array<float, 16> kFloat = all(CodeFormat::kE2M1);
  switch (format) {
    case CodeFormat::kI4:
      return kSigned.data();
    case CodeFormat::kI4Offset:
      return kOffset.data();
    default:
      return kFloat.data();
  }
}

void ScaleScales(TensorScaleUse use, float tensor_scale, float* scales, std::size_t count) {
  if (use == TensorScaleUse::kMultiply) {
    for (std::size_t i = 0; i < count; ++i) scales[i] *= tensor_scale;
  } else {
    for (std::size_t i = 0; i < count; ++i) scales[i] /= tensor_scale;
  }
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE

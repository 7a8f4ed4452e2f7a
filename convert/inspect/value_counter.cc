#include "convert/inspect/value_counter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/codec.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

struct Value {
  double value;
  bool subnormal;
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Value DecodeCode(Dtype dtype, std::uint32_t code) {
  const auto narrow = static_cast<std::uint8_t>(code);
  const auto wide = static_cast<std::uint16_t>(code);
  const auto subnormal = [&](unsigned exponent_mask, unsigned mantissa_mask) {
    return (code & exponent_mask) == 0 && (code & mantissa_mask) != 0;
  };
  switch (dtype) {
    case Dtype::kBool:
      return {code != 0 ? 1.0 : 0.0, false};
    case Dtype::kF4:
      return {quant::DecodeE2M1(narrow), subnormal(0x06, 0x01)};
    case Dtype::kU8:
    case Dtype::kU16:
      return {static_cast<double>(code), false};
    case Dtype::kI8:
      return {static_cast<double>(static_cast<std::int8_t>(narrow)), false};
    case Dtype::kI16:
      return {static_cast<double>(static_cast<std::int16_t>(wide)), false};
    case Dtype::kF8E4M3:
      return {quant::DecodeE4M3(narrow), subnormal(0x78, 0x07)};
    case Dtype::kF8E5M2:
      return {quant::DecodeE5M2(narrow), subnormal(0x7C, 0x03)};
    case Dtype::kF8E8M0:
      return {quant::DecodeE8M0(narrow), false};
    case Dtype::kF8E4M3Fnuz:
      return {quant::DecodeE4M3Fnuz(narrow), subnormal(0x78, 0x07)};
    case Dtype::kF8E5M2Fnuz:
      return {quant::DecodeE5M2Fnuz(narrow), subnormal(0x7C, 0x03)};
    case Dtype::kF16:
      return {quant::DecodeF16(wide), subnormal(0x7C00, 0x03FF)};
    case Dtype::kBF16:
      return {quant::DecodeBF16(wide), subnormal(0x7F80, 0x007F)};
    default:
      return {kNan, false};
  }
}

}  // namespace

bool ValueCounter::Supports(Dtype dtype) {
  return dtype != Dtype::kF6E2M3 && dtype != Dtype::kF6E3M2;
}

ValueCounter::ValueCounter(Dtype dtype) : dtype_(dtype) {
  const unsigned bits = formats::DtypeBits(dtype);
  if (bits <= 16) codes_.assign(std::size_t{1} << bits, 0);
}

void ValueCounter::AddValue(double value, bool subnormal, std::uint64_t times) {
  ValueStatistics& s = statistics_;
  s.values += times;
  if (subnormal) s.subnormals += times;
  if (std::isnan(value)) {
    s.nans += times;
    return;
  }
  if (std::isinf(value)) {
    s.infinities += times;
    return;
  }
  if (value == 0) s.zeros += times;
  s.min = s.finite == 0 ? value : std::min(s.min, value);
  s.max = s.finite == 0 ? value : std::max(s.max, value);
  s.finite += times;
  const auto count = static_cast<long double>(times);
  const auto wide = static_cast<long double>(value);
  sum_ += count * wide;
  squares_ += count * wide * wide;
}

template <typename T>
void ValueCounter::AddFloats(std::span<const std::byte> bytes) {
  for (std::size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + i, sizeof value);
    AddValue(static_cast<double>(value), std::fpclassify(value) == FP_SUBNORMAL, 1);
  }
}

template <typename T>
void ValueCounter::AddIntegers(std::span<const std::byte> bytes) {
  for (std::size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + i, sizeof value);
    AddValue(static_cast<double>(value), false, 1);
  }
}

void ValueCounter::Add(std::span<const std::byte> bytes) {
  switch (formats::DtypeBits(dtype_)) {
    case 4:  // two in a byte; the low half comes first
      for (const std::byte b : bytes) {
        ++codes_[std::to_integer<std::size_t>(b & std::byte{0xF})];
        ++codes_[std::to_integer<std::size_t>(b >> 4)];
      }
      return;
    case 8:
      for (const std::byte b : bytes) ++codes_[std::to_integer<std::size_t>(b)];
      return;
    case 16:
      for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
        ++codes_[std::to_integer<std::size_t>(bytes[i]) | std::to_integer<std::size_t>(bytes[i + 1])
                                                              << 8];
      }
      return;
    default:
      break;
  }
  switch (dtype_) {
    case Dtype::kF32:
    case Dtype::kC64:
      return AddFloats<float>(bytes);
    case Dtype::kF64:
      return AddFloats<double>(bytes);
    case Dtype::kI32:
      return AddIntegers<std::int32_t>(bytes);
    case Dtype::kU32:
      return AddIntegers<std::uint32_t>(bytes);
    case Dtype::kI64:
      return AddIntegers<std::int64_t>(bytes);
    case Dtype::kU64:
      return AddIntegers<std::uint64_t>(bytes);
    default:
      return;
  }
}

ValueStatistics ValueCounter::Finish() {
  for (std::uint32_t code = 0; code < codes_.size(); ++code) {
    if (codes_[code] == 0) continue;
    const Value decoded = DecodeCode(dtype_, code);
    AddValue(decoded.value, decoded.subnormal, codes_[code]);
  }
  ValueStatistics& s = statistics_;
  if (s.finite > 0) {
    const auto finite = static_cast<long double>(s.finite);
    s.absmax = std::max(std::abs(s.min), std::abs(s.max));
    s.mean = static_cast<double>(sum_ / finite);
    s.rms = static_cast<double>(std::sqrt(squares_ / finite));
  }
  return s;
}

}  // namespace dsv3::convert

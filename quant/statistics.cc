#include "quant/statistics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "quant/codec.h"
#include "quant/statistics_piece.h"

namespace dsv3::quant {
namespace internal {

FloatStatistics MeasureWild(std::span<const float> values) {
  FloatStatistics result;
  result.values = values.size();
  if (values.empty()) return result;
  result.first = values[0];
  const auto first = std::bit_cast<std::uint32_t>(values[0]);
  for (const float value : values) {
    result.constant = result.constant && std::bit_cast<std::uint32_t>(value) == first;
    if (std::isnan(value)) {
      ++result.nans;
    } else if (std::isinf(value)) {
      ++result.infinities;
    } else {
      result.absmax = std::max(result.absmax, std::abs(value));
      result.sum_squares += double{value} * double{value};
    }
  }
  return result;
}

float DecodeCode(Fp8Format format, std::uint8_t code) {
  return format == Fp8Format::kE4M3 ? DecodeE4M3(code) : DecodeE5M2(code);
}

}  // namespace internal

std::size_t ElementBytes(StoredFloat format) {
  switch (format) {
    case StoredFloat::kE4M3:
    case StoredFloat::kE5M2:
    case StoredFloat::kE8M0:
      return 1;
    case StoredFloat::kBF16:
    case StoredFloat::kF16:
      return 2;
    case StoredFloat::kF32:
      return 4;
  }
  return 1;
}

void DecodeFloats(StoredFloat format, std::span<const std::byte> bytes, float* out) {
  const std::size_t count = bytes.size() / ElementBytes(format);
  const auto scaled_by_one = [&](Fp8Format fp8) {
    static constexpr float kOne = 1;
    internal::DecodeScaledBest(
        fp8, {{reinterpret_cast<const std::uint8_t*>(bytes.data()), count}, 0, UINT64_MAX, &kOne},
        out);
  };
  switch (format) {
    case StoredFloat::kE4M3:
      return scaled_by_one(Fp8Format::kE4M3);
    case StoredFloat::kE5M2:
      return scaled_by_one(Fp8Format::kE5M2);
    case StoredFloat::kE8M0:
      for (std::size_t i = 0; i < count; ++i) {
        out[i] = DecodeE8M0(std::to_integer<std::uint8_t>(bytes[i]));
      }
      return;
    case StoredFloat::kBF16:
      return internal::DecodeBF16Best(bytes.data(), count, out);
    case StoredFloat::kF16:
      return internal::DecodeF16Best(bytes.data(), count, out);
    case StoredFloat::kF32:
      if (count != 0) std::memcpy(out, bytes.data(), count * sizeof(float));
      return;
  }
}

void DecodeScaledFloats(Fp8Format format, const ScaledRow& row, float* out) {
  internal::DecodeScaledBest(format, row, out);
}

void FloatStatistics::Add(const FloatStatistics& next) {
  if (next.values == 0) return;
  if (values == 0) {
    *this = next;
    return;
  }
  constant = constant && next.constant &&
             std::bit_cast<std::uint32_t>(first) == std::bit_cast<std::uint32_t>(next.first);
  values += next.values;
  nans += next.nans;
  infinities += next.infinities;
  absmax = std::max(absmax, next.absmax);
  sum_squares += next.sum_squares;
}

FloatStatistics MeasureFloats(std::span<const float> values) {
  return internal::MeasureBest(values);
}

FloatStatistics MeasureFloatsScalar(std::span<const float> values) {
  using internal::kGroup;
  using internal::kLanes;
  std::uint32_t largest = 0;
  for (const float value : values) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & ~internal::kFloatSign);
  }
  if (!internal::IsTame(largest)) return internal::MeasureWild(values);
  FloatStatistics result;
  result.values = values.size();
  result.absmax = std::bit_cast<float>(largest);
  if (values.empty()) return result;
  result.first = values[0];
  std::array<double, kLanes> totals{};
  for (std::size_t begin = 0; begin < values.size(); begin += kGroup) {
    std::array<float, kLanes> lanes{};
    const std::size_t end = std::min(values.size(), begin + kGroup);
    for (std::size_t i = begin; i < end; ++i) {
      const float square = values[i] * values[i];
      lanes[i % kLanes] += square;
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) totals[lane] += double{lanes[lane]};
  }
  for (const double total : totals) result.sum_squares += total;
  const auto first = std::bit_cast<std::uint32_t>(values[0]);
  result.constant = std::all_of(values.begin(), values.end(), [&](float value) {
    return std::bit_cast<std::uint32_t>(value) == first;
  });
  return result;
}

bool EqualFloats(std::span<const float> a, std::span<const float> b) {
  return internal::EqualBest(a.data(), b.data(), a.size());
}

}  // namespace dsv3::quant

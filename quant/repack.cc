#include "quant/repack.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "quant/codec.h"

namespace dsv3::quant {
namespace {

constexpr int kLargestShift = 6;  // 6 × 2^6 = 384
// Every product is 0 in E4M3 from here on.
constexpr int kSmallestShift = -16;
constexpr std::size_t kMagnitudes = 8;
constexpr std::uint8_t kGroupsMiddle = 8;  // E4M3's largest power of two is 2^8
constexpr int kSmallestGroup = -9;         // and its smallest one 2^-9

float PowerOfTwo(int exponent) {
  return std::bit_cast<float>(exponent >= -126 ? static_cast<std::uint32_t>(exponent + 127) << 23
                                               : 1U << (exponent + 149));
}

// The E4M3 codes of both E2M1 codes of each byte times a power of two.
struct ShiftTable {
  std::array<std::array<std::uint8_t, 2>, 256> codes;
};

const ShiftTable& TableOf(int shift) {
  static const auto kTables = [] {
    std::array<ShiftTable, kLargestShift - kSmallestShift + 1> tables{};
    for (int of = kSmallestShift; of <= kLargestShift; ++of) {
      std::array<std::uint8_t, 16> single{};
      for (std::uint8_t code = 0; code < 16; ++code) {
        // Powers of two: the product is exact.
        single[code] = EncodeE4M3(DecodeE2M1(code) * PowerOfTwo(of));
      }
      ShiftTable& table = tables[static_cast<std::size_t>(of - kSmallestShift)];
      for (std::size_t both = 0; both < 256; ++both) {
        table.codes[both] = {single[both & 0xF], single[both >> 4]};
      }
    }
    return tables;
  }();
  return kTables[static_cast<std::size_t>(std::max(shift, kSmallestShift) - kSmallestShift)];
}

// The BF16 values of all magnitudes in groups with these E4M3 scales.
using GroupValues = std::array<std::uint16_t, kMagnitudes>;

void ValuesOf(TensorScaleUse use, float tensor_scale, std::span<const std::uint8_t> groups,
              std::span<GroupValues> values) {
  constexpr std::uint8_t kAll[] = {0x10, 0x32, 0x54, 0x76};
  std::array<float, 256> scales{};
  std::array<std::uint8_t, 256 * sizeof kAll> codes{};
  for (std::size_t i = 0; i < groups.size(); ++i) {
    scales[i] = DecodeE4M3(groups[i]);
    std::memcpy(&codes[i * sizeof kAll], kAll, sizeof kAll);
  }
  ApplyTensorScale(use, tensor_scale, std::span(scales).first(groups.size()));
  DequantizeSpan span;
  span.codes = std::span(codes).first(groups.size() * sizeof kAll);
  span.cols = kMagnitudes;
  span.block = {1, kMagnitudes};
  span.scales = scales;
  DequantizeCounts counts;
  DequantizeToBF16(CodeFormat::kE2M1, span, values.front().data(), counts);
}

TensorScaleUse OtherUse(TensorScaleUse use) {
  return use == TensorScaleUse::kMultiply ? TensorScaleUse::kDivide : TensorScaleUse::kMultiply;
}

}  // namespace

E2M1Set MagnitudesOf(std::span<const std::uint8_t> codes) {
  unsigned set = 0;
  for (const std::uint8_t both : codes) set |= 1U << (both & 7U) | 1U << (both >> 4 & 7U);
  return static_cast<E2M1Set>(set);
}

std::uint8_t Fp8BlockScale(std::uint8_t largest) {
  return static_cast<std::uint8_t>(std::max(0, largest - kLargestShift));
}

void E2M1ToE4M3(std::span<const std::uint8_t> codes, std::uint8_t group, std::uint8_t block,
                std::uint8_t* out) {
  const ShiftTable& table = TableOf(group - block);
  for (const std::uint8_t both : codes) {
    std::memcpy(out, table.codes[both].data(), 2);
    out += 2;
  }
}

E2M1Set MagnitudesLostInFp8(std::uint8_t group, std::uint8_t block) {
  const int shift = group - block;
  unsigned lost = 0;
  for (std::uint8_t code = 1; code < kMagnitudes; ++code) {
    const bool kept = shift >= kSmallestShift && DecodeE4M3(TableOf(shift).codes[code][0]) ==
                                                     DecodeE2M1(code) * PowerOfTwo(shift);
    if (!kept) lost |= 1U << code;
  }
  return static_cast<E2M1Set>(lost);
}

float NvFp4TensorScale(std::uint8_t largest) { return PowerOfTwo(largest - 127 - kGroupsMiddle); }

std::uint8_t NvFp4GroupScale(std::uint8_t group, std::uint8_t largest) {
  return EncodeE4M3(PowerOfTwo(std::max(group - largest + kGroupsMiddle, kSmallestGroup)));
}

bool LosesGroupScale(std::uint8_t group, std::uint8_t largest) {
  return group - largest + kGroupsMiddle < kSmallestGroup;
}

float OtherTensorScale(TensorScaleUse from, float tensor_scale,
                       const std::array<bool, 256>& groups) {
  std::array<std::uint8_t, 256> used{};
  std::size_t count = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (groups[i]) used[count++] = static_cast<std::uint8_t>(i);
  }
  const float quotient = Reciprocal(tensor_scale);
  if (count == 0) return quotient;
  const auto present = std::span<const std::uint8_t>(used).first(count);
  std::array<GroupValues, 256> before{};
  std::array<GroupValues, 256> after{};
  ValuesOf(from, tensor_scale, present, before);
  for (const int step : {0, 1, -1, 2, -2}) {
    const float other =
        std::bit_cast<float>(std::bit_cast<std::uint32_t>(quotient) + static_cast<unsigned>(step));
    ValuesOf(OtherUse(from), other, present, after);
    if (before == after) return other;
  }
  return quotient;
}

E2M1Set MagnitudesLostByTensorScale(TensorScaleUse from, float tensor_scale, float other,
                                    std::uint8_t group) {
  GroupValues before{};
  GroupValues after{};
  ValuesOf(from, tensor_scale, std::span(&group, 1), std::span(&before, 1));
  ValuesOf(OtherUse(from), other, std::span(&group, 1), std::span(&after, 1));
  unsigned lost = 0;
  for (std::size_t i = 0; i < kMagnitudes; ++i) {
    if (before[i] != after[i]) lost |= 1U << i;
  }
  return static_cast<E2M1Set>(lost);
}

float Reciprocal(float x) {
  float one = 1;
  ApplyTensorScale(TensorScaleUse::kDivide, x, std::span(&one, 1));
  return one;
}

}  // namespace dsv3::quant

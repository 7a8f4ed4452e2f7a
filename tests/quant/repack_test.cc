#include "quant/repack.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/quant/float_environment.h"

namespace dsv3::quant {
namespace {

constexpr double kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

double E2M1(unsigned code) { return code < 8 ? kMagnitudes[code] : -kMagnitudes[code - 8]; }

// The value of an E4M3 code that is not NaN.
double E4M3(unsigned code) {
  const int exponent = static_cast<int>(code >> 3 & 15);
  const int mantissa = static_cast<int>(code & 7);
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// Whether E4M3 has the value, which has at most two bits: a multiple of its smallest number.
bool IsE4M3(double value) {
  const double steps = std::ldexp(value, 9);
  return std::abs(value) <= 448 && steps == std::nearbyint(steps);
}

TEST(RepackTest, FindsTheMagnitudesOfEveryByte) {
  EXPECT_EQ(MagnitudesOf({}), 0);
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::uint8_t codes[] = {static_cast<std::uint8_t>(byte)};
    EXPECT_EQ(MagnitudesOf(codes), 1U << (byte & 7) | 1U << (byte >> 4 & 7)) << byte;
  }
  const std::uint8_t several[] = {0x00, 0x98, 0x77};
  EXPECT_EQ(MagnitudesOf(several), 0b10000011);
}

TEST(RepackTest, MakesEveryE4M3CodeOfEveryScaleOrSaysThatItIsLost) {
  std::vector<std::uint8_t> bytes(256);
  for (unsigned byte = 0; byte < 256; ++byte) bytes[byte] = static_cast<std::uint8_t>(byte);
  for (unsigned largest = 0; largest < 255; ++largest) {
    const std::uint8_t block = Fp8BlockScale(static_cast<std::uint8_t>(largest));
    EXPECT_EQ(block, largest < 6 ? 0 : largest - 6);
    // All groups further down are lost, but for their zeros.
    for (unsigned group = largest < 30 ? 0 : largest - 30; group <= largest; ++group) {
      std::vector<std::uint8_t> out(512, 0x55);
      E2M1ToE4M3(bytes, static_cast<std::uint8_t>(group), block, out.data());
      const E2M1Set lost = MagnitudesLostInFp8(static_cast<std::uint8_t>(group), block);
      for (unsigned i = 0; i < 512; ++i) {
        const unsigned code = i % 2 == 0 ? i / 2 & 15 : i / 2 >> 4;
        const double value = std::ldexp(E2M1(code), static_cast<int>(group) - block);
        const bool is_lost = (lost >> (code & 7) & 1) != 0;
        ASSERT_EQ(is_lost, !IsE4M3(value)) << largest << ' ' << group << ' ' << code;
        if (is_lost) continue;
        ASSERT_EQ(E4M3(out[i]), value) << largest << ' ' << group << ' ' << code;
        ASSERT_EQ(out[i] >> 7, code >> 3) << "the sign of zeros, too";
      }
    }
  }
}

TEST(RepackTest, SplitsEveryE8M0ScaleIntoThoseOfNvFp4OrSaysThatItIsLost) {
  for (unsigned largest = 0; largest < 255; ++largest) {
    const auto of = static_cast<std::uint8_t>(largest);
    const double tensor = NvFp4TensorScale(of);
    EXPECT_EQ(tensor, std::ldexp(1.0, static_cast<int>(largest) - 135));
    for (unsigned group = 0; group <= largest; ++group) {
      const auto scale = static_cast<std::uint8_t>(group);
      const std::uint8_t code = NvFp4GroupScale(scale, of);
      EXPECT_EQ(LosesGroupScale(scale, of), largest - group > 17);
      if (LosesGroupScale(scale, of)) {
        EXPECT_EQ(code, 0x01);
      } else {
        EXPECT_EQ(E4M3(code) * tensor, std::ldexp(1.0, static_cast<int>(group) - 127));
      }
    }
  }
}

// BF16(e2m1 × scale) from floats in default arithmetic.
std::uint16_t ValueOf(unsigned code, float scale) {
  const float product = static_cast<float>(E2M1(code)) * scale;
  const auto bits = std::bit_cast<std::uint32_t>(product);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float Applied(TensorScaleUse use, unsigned group, float tensor_scale) {
  const auto scale = static_cast<float>(E4M3(group));
  return use == TensorScaleUse::kMultiply ? scale * tensor_scale : scale / tensor_scale;
}

TEST(RepackTest, FindsTensorScalesThatKeepEveryValue) {
  std::mt19937 random(1);
  std::array<bool, 256> all{};
  for (unsigned group = 1; group < 0x7F; ++group) all[group] = true;
  int beside = 0;
  for (int i = 0; i < 4000; ++i) {
    const auto use = i % 2 == 0 ? TensorScaleUse::kMultiply : TensorScaleUse::kDivide;
    const auto other_use = i % 2 == 0 ? TensorScaleUse::kDivide : TensorScaleUse::kMultiply;
    // From 2^-20 to 2^20; of half of them the products lie next to a tie of BF16.
    auto bits = static_cast<std::uint32_t>((107 + random() % 40) << 23 | (random() & 0x7FFFFF));
    if (i % 4 < 2) bits = (bits & 0xFFFF0000U) + 0x7FFE + static_cast<std::uint32_t>(random() % 5);
    const float scale = std::bit_cast<float>(bits);
    const float other = OtherTensorScale(use, scale, all);
    beside += other == 1 / scale ? 0 : 1;
    EXPECT_LE(std::abs(static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(other)) -
                       static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(1 / scale))),
              2);
    for (unsigned group = 1; group < 0x7F; ++group) {
      const E2M1Set lost =
          MagnitudesLostByTensorScale(use, scale, other, static_cast<std::uint8_t>(group));
      ASSERT_EQ(lost, 0) << scale << ' ' << other << ' ' << group;
      for (unsigned code = 0; code < 8; ++code) {
        ASSERT_EQ(ValueOf(code, Applied(use, group, scale)),
                  ValueOf(code, Applied(other_use, group, other)));
      }
    }
  }
  // The rounded quotient alone does not do for all.
  EXPECT_GT(beside, 0);
  EXPECT_LT(beside, 2000);
}

TEST(RepackTest, SaysWhichValuesATensorScaleChanges) {
  for (unsigned group = 1; group < 0x7F; ++group) {
    const E2M1Set lost = MagnitudesLostByTensorScale(TensorScaleUse::kMultiply, 0.25F, 4.1F,
                                                     static_cast<std::uint8_t>(group));
    for (unsigned code = 0; code < 8; ++code) {
      const bool differs = ValueOf(code, Applied(TensorScaleUse::kMultiply, group, 0.25F)) !=
                           ValueOf(code, Applied(TensorScaleUse::kDivide, group, 4.1F));
      EXPECT_EQ((lost >> code & 1) != 0, differs) << group << ' ' << code;
    }
  }
  // A quotient that is infinite keeps nothing.
  std::array<bool, 256> one{};
  one[0x38] = true;
  const float other = OtherTensorScale(TensorScaleUse::kMultiply, 0x1p-140F, one);
  EXPECT_TRUE(std::isinf(other));
}

TEST(RepackTest, IsTheSameInEveryFloatingPointEnvironment) {
  std::array<bool, 256> all{};
  for (unsigned group = 1; group < 0x7F; ++group) all[group] = true;
  const float expected = OtherTensorScale(TensorScaleUse::kMultiply, 0x1.234568p-127F, all);
  for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
    float other = 0;
    float third = 0;
    float smallest = 1;
    std::uint8_t group = 0;
    {
      const FloatEnvironment environment(kind);
      other = OtherTensorScale(TensorScaleUse::kMultiply, 0x1.234568p-127F, all);
      third = Reciprocal(3.0F);
      smallest = NvFp4TensorScale(0);
      group = NvFp4GroupScale(0, 0);
    }
    EXPECT_EQ(std::bit_cast<std::uint32_t>(other), std::bit_cast<std::uint32_t>(expected));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(third), 0x3EAAAAABU);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(smallest), 1U << 14);
    EXPECT_EQ(group, 0x78);
  }
}

}  // namespace
}  // namespace dsv3::quant

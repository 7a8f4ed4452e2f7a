#include "quant/dequantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "quant/codec.h"
#include "tests/quant/float_environment.h"
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

// Takes what std::mt19937 gives: 32 bits in a wider type.
float Float(std::uint_fast32_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
}

// Whether a result is right by arithmetic that shares nothing with the code under test: the product
// of a code and a float is exact in double; rounding it to float and that to BF16 is the formula.
std::uint16_t Formula(Fp8Format format, std::uint8_t code, float scale) {
  const float value = format == Fp8Format::kE4M3 ? DecodeE4M3(code) : DecodeE5M2(code);
  const float product = static_cast<float>(double{value} * double{scale});
  if (std::isnan(product)) {
    const bool code_is_nan = std::isnan(value);
    const bool negative = ((code & 0x80) != 0) != (!code_is_nan && std::signbit(scale));
    return negative ? 0xFFC0 : 0x7FC0;
  }
  const auto bits = std::bit_cast<std::uint32_t>(product);
  std::uint32_t upper = bits >> 16;
  const std::uint32_t lower = bits & 0xFFFF;
  if (lower > 0x8000 || (lower == 0x8000 && upper % 2 == 1)) ++upper;
  return static_cast<std::uint16_t>(upper);
}

// Scales whose product with one of the odd significands is half way between two floats, of which
// the even one is half way between two BF16 values or next to that: the first of the two roundings
// decides the second.
std::vector<float> DoubleTieScales() {
  std::vector<float> scales;
  for (const std::uint32_t significand : {9U, 11U, 13U, 15U}) {
    std::uint32_t inverse = significand;  // modulo 2^32
    for (int i = 0; i < 4; ++i) inverse *= 2 - significand * inverse;
    for (const std::uint32_t dropped_bits : {3U, 4U}) {
      for (const std::uint32_t low_bits : {0x7FFFU, 0x8000U, 0x17FFFU, 0x18000U}) {
        const std::uint32_t modulus = 1U << (dropped_bits + 17);
        const std::uint32_t product = (low_bits << dropped_bits) + (1U << (dropped_bits - 1));
        const std::uint32_t mantissa = product * inverse % modulus;
        for (std::uint32_t m = mantissa; m < 0x1000000U; m += modulus) {
          if (m >= 0x800000U) scales.push_back(Float(127U << 23 | (m & 0x7FFFFFU)));
        }
      }
    }
  }
  return scales;
}

std::vector<float> InterestingScales() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> scales = {0.0F,
                               -0.0F,
                               1.0F,
                               -1.0F,
                               1.9999F,
                               0x1.fffffep0F,
                               0x1.fffffep127F,
                               0x1p127F,
                               0x1p-126F,
                               0x1.fffffcp-127F,
                               0x1p-149F,
                               -0x1p-149F,
                               0x1.8p-130F,
                               kInfinity,
                               -kInfinity,
                               Float(0x7FC00000U),
                               Float(0xFF800001U),
                               1.32288F,
                               3.7e-38F};
  for (int exponent = -149; exponent < 128; ++exponent) {
    scales.push_back(std::ldexp(1.0F, exponent));
  }
  for (const float scale : DoubleTieScales()) scales.push_back(scale);
  for (const std::uint32_t mantissa :
       {0x004000U, 0x008000U, 0x00FFFFU, 0x010000U, 0x018000U, 0x024924U, 0x333333U, 0x7F8000U,
        0x7F7FFFU, 0x7FFFFFU, 0x2AAAAAU, 0x2AAAABU, 0x555555U, 0x111111U}) {
    for (const std::uint32_t field : {1U, 8U, 9U, 10U, 11U, 15U, 16U, 17U, 18U, 127U, 237U, 238U,
                                      239U, 240U, 244U, 245U, 246U, 247U, 254U}) {
      scales.push_back(Float(field << 23 | mantissa));
      scales.push_back(Float(0x80000000U | field << 23 | mantissa));
    }
  }
  std::mt19937 random(11);
  for (int i = 0; i < 3000; ++i) scales.push_back(Float(random()));
  return scales;
}

void RunScalar(Fp8Format format, const DequantizeSpan& span, std::uint16_t* out,
               DequantizeCounts& counts) {
  if (format == Fp8Format::kE4M3) {
    DequantizeE4M3ToBF16Scalar(span, out, counts);
  } else {
    DequantizeE5M2ToBF16Scalar(span, out, counts);
  }
}

std::uint16_t ScalarResult(std::uint8_t code, float scale, Fp8Format format = Fp8Format::kE4M3) {
  std::uint16_t result = 0;
  DequantizeCounts counts;
  RunScalar(format,
            {.codes = std::span(&code, 1),
             .first = 0,
             .cols = 1,
             .block = {1, 1},
             .scales = std::span(&scale, 1)},
            &result, counts);
  return result;
}

TEST(DequantizeScalar, EqualsTheFormulaForEveryCodeAndManyScales) {
  for (const Fp8Format format : {Fp8Format::kE4M3, Fp8Format::kE5M2}) {
    for (const float scale : InterestingScales()) {
      for (int code = 0; code < 256; ++code) {
        const auto c = static_cast<std::uint8_t>(code);
        ASSERT_EQ(ScalarResult(c, scale, format), Formula(format, c, scale))
            << "code " << code << " scale " << scale;
      }
    }
  }
}

TEST(DequantizeScalar, KeepsSignsOfZeroAndNan) {
  EXPECT_EQ(ScalarResult(0x80, 2.0F), 0x8000);
  EXPECT_EQ(ScalarResult(0x80, -2.0F), 0x0000);
  EXPECT_EQ(ScalarResult(0x7F, -2.0F), 0x7FC0);  // the code's sign, whatever the scale
  EXPECT_EQ(ScalarResult(0xFF, Float(0x7FC00000U)), 0xFFC0);
  EXPECT_EQ(ScalarResult(0x81, Float(0xFFC00000U)), 0x7FC0);
  EXPECT_EQ(ScalarResult(0x00, -std::numeric_limits<float>::infinity()), 0xFFC0);
}

TEST(DequantizeScalar, MultipliesInfinitiesOfE5M2) {
  constexpr auto kE5M2 = Fp8Format::kE5M2;
  EXPECT_EQ(ScalarResult(0x7C, 0x1p-149F, kE5M2), 0x7F80);
  EXPECT_EQ(ScalarResult(0xFC, 2.0F, kE5M2), 0xFF80);
  EXPECT_EQ(ScalarResult(0xFC, -2.0F, kE5M2), 0x7F80);
  EXPECT_EQ(ScalarResult(0x7C, -0.0F, kE5M2), 0xFFC0);
  EXPECT_EQ(ScalarResult(0x7C, -std::numeric_limits<float>::infinity(), kE5M2), 0xFF80);
  EXPECT_EQ(ScalarResult(0xFC, Float(0x7FC00000U), kE5M2), 0xFFC0);
  EXPECT_EQ(ScalarResult(0x7B, 0x1p112F, kE5M2), 0x7F60);
  EXPECT_EQ(ScalarResult(0x7B, 0x1.4p112F, kE5M2), 0x7F80);  // 57344 × scale is beyond BF16
  for (const int magnitude : {0x7D, 0x7E, 0x7F}) {
    const auto nan = static_cast<std::uint8_t>(magnitude);
    EXPECT_EQ(ScalarResult(nan, -1.0F, kE5M2), 0x7FC0);
    EXPECT_EQ(ScalarResult(static_cast<std::uint8_t>(magnitude | 0x80), -1.0F, kE5M2), 0xFFC0);
  }
}

class DequantizeKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, DequantizeKernel, EveryTarget(), TargetName);

TEST_P(DequantizeKernel, IsTheOneUnderTest) {
  EXPECT_STREQ(KernelTargetName(), hwy::TargetName(GetParam()));
}

constexpr std::uint16_t kUntouched = 0xABCD;

// Compares the kernel with the scalar meaning on one span, and sees that nothing else is written.
void ExpectEqualsScalar(Fp8Format format, const DequantizeSpan& span, std::size_t out_offset) {
  const std::size_t size = span.codes.size();
  constexpr std::size_t kMargin = 160;
  std::vector<std::uint16_t> actual(out_offset + size + kMargin, kUntouched);
  std::vector<std::uint16_t> expected = actual;
  DequantizeCounts actual_counts;
  DequantizeCounts expected_counts;
  DequantizeToBF16(format, span, actual.data() + out_offset, actual_counts);
  RunScalar(format, span, expected.data() + out_offset, expected_counts);
  ASSERT_EQ(actual_counts.nan_codes, expected_counts.nan_codes);
  const auto [a, b] = std::mismatch(actual.begin(), actual.end(), expected.begin());
  ASSERT_TRUE(a == actual.end()) << "element " << a - actual.begin() - std::ptrdiff_t(out_offset)
                                 << " is " << *a << " instead of " << *b << "; first " << span.first
                                 << " cols " << span.cols << " block " << span.block.rows << "x"
                                 << span.block.cols << " format " << static_cast<int>(format);
}

void ExpectEqualsScalar(const DequantizeSpan& span, std::size_t out_offset) {
  for (const Fp8Format format : {Fp8Format::kE4M3, Fp8Format::kE5M2}) {
    ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar(format, span, out_offset));
  }
}

std::vector<std::uint8_t> RandomCodes(std::size_t size, std::uint32_t seed, bool nan_codes) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> codes(size);
  for (std::uint8_t& code : codes) {
    code = static_cast<std::uint8_t>(random());
    if (!nan_codes && (code & 0x7F) == 0x7F) code ^= 1;
  }
  return codes;
}

// The scale rows that a span needs; about one in `odd_one_in` is any float at all.
std::vector<float> RandomScales(std::uint64_t first, std::uint64_t size, std::uint64_t cols,
                                BlockShape block, std::uint32_t seed, std::uint32_t odd_one_in) {
  std::mt19937 random(seed);
  const std::uint64_t last = size == 0 ? first : first + size - 1;
  const std::uint64_t rows = last / cols / block.rows - first / cols / block.rows + 1;
  std::vector<float> scales(rows * ((cols - 1) / block.cols + 1));
  for (float& scale : scales) {
    scale = Float((random() & 0x807FFFFFU) | (100 + random() % 50) << 23);
    if (random() % odd_one_in == 0) scale = Float(random());
  }
  return scales;
}

TEST_P(DequantizeKernel, EqualsScalarForEveryCodeAndManyScales) {
  std::vector<std::uint8_t> codes(256);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
  for (const float scale : InterestingScales()) {
    SCOPED_TRACE(scale);
    ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar({.codes = codes,
                                                .first = 0,
                                                .cols = 256,
                                                .block = {1, 256},
                                                .scales = std::span(&scale, 1)},
                                               0));
  }
}

TEST_P(DequantizeKernel, EqualsScalarForEveryLengthAndOffset) {
  const std::vector<std::uint8_t> codes = RandomCodes(512, 1, true);
  const BlockShape block{2, 32};
  const std::vector<float> scales = RandomScales(0, 1024, 100, block, 2, 16);
  for (std::size_t length = 0; length <= 400; ++length) {
    const std::size_t offset = length * 7 % 65;
    ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar({.codes = std::span(codes).subspan(offset, length),
                                                .first = length * 13 % 90,
                                                .cols = 100,
                                                .block = block,
                                                .scales = scales},
                                               length % 33));
  }
}

TEST_P(DequantizeKernel, EqualsScalarForEveryStartWithinARow) {
  constexpr std::uint64_t kCols = 160;
  for (std::uint64_t first = 0; first < 2 * kCols; ++first) {
    const std::vector<std::uint8_t> codes =
        RandomCodes(3 * kCols, static_cast<std::uint32_t>(first), false);
    const BlockShape block{2, 64};
    const std::vector<float> scales = RandomScales(first, codes.size(), kCols, block, 3, 1000);
    ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar(
        {.codes = codes, .first = first, .cols = kCols, .block = block, .scales = scales}, 0));
  }
}

struct MatrixCase {
  std::uint64_t rows;
  std::uint64_t cols;
  BlockShape block;
};

TEST_P(DequantizeKernel, EqualsScalarForEveryKindOfBlock) {
  constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
  const std::array cases = {
      MatrixCase{256, 384, {128, 128}}, MatrixCase{130, 300, {128, 128}},  // ragged edges
      MatrixCase{7, 640, {1, 128}},     MatrixCase{70, 100, {32, 32}},
      MatrixCase{9, 333, {1, 333}},     MatrixCase{9, 333, {1, 32}},
      MatrixCase{9, 33, {1, 1}},        MatrixCase{5, 700, {2, 1}},  // more blocks than a piece
      MatrixCase{3, 9000, {1, 16}},     MatrixCase{4, 5, {128, 128}},
      MatrixCase{40, 1, {3, 1}},        MatrixCase{50, 70, {kHuge, kHuge}},
      MatrixCase{50, 70, {7, kHuge}},   MatrixCase{50, 70, {kHuge, 13}},
      MatrixCase{1, 1, {1, 1}},         MatrixCase{33, 127, {5, 31}},
  };
  std::uint32_t seed = 0;
  for (const MatrixCase& c : cases) {
    for (const std::uint32_t odd_one_in : {5U, 100000U}) {
      ++seed;
      const std::vector<std::uint8_t> codes = RandomCodes(c.rows * c.cols, seed, seed % 2 == 0);
      const std::vector<float> scales =
          RandomScales(0, codes.size(), c.cols, c.block, seed, odd_one_in);
      ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar(
          {.codes = codes, .first = 0, .cols = c.cols, .block = c.block, .scales = scales},
          seed % 33));
    }
  }
}

TEST_P(DequantizeKernel, EqualsScalarOnRandomSpans) {
  std::mt19937 random(5);
  for (std::uint32_t i = 0; i < 1500; ++i) {
    const std::uint64_t cols = 1 + random() % (i % 4 == 0 ? 3000 : 300);
    const BlockShape block{1 + random() % 40, 1 + random() % (i % 8 == 0 ? 3 : 200)};
    const std::uint64_t first = random() % (cols * 50);
    const std::vector<std::uint8_t> codes = RandomCodes(random() % 4000, i, i % 2 == 0);
    const std::vector<float> scales = RandomScales(first, codes.size(), cols, block, i, 20);
    ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar(
        {.codes = codes, .first = first, .cols = cols, .block = block, .scales = scales},
        random() % 40));
  }
}

// Large spans are stored past the caches, for which the output's alignment matters.
TEST_P(DequantizeKernel, EqualsScalarOnLargeSpansAtEveryAlignment) {
  constexpr std::uint64_t kCols = 640;
  const std::vector<std::uint8_t> codes = RandomCodes(kCols * 260, 1, true);
  const BlockShape block{128, 128};
  for (std::size_t out_offset = 0; out_offset < 33; ++out_offset) {
    const std::uint64_t first = out_offset * 77;
    const std::vector<float> scales = RandomScales(first, codes.size(), kCols, block, 3, 9);
    ASSERT_NO_FATAL_FAILURE(ExpectEqualsScalar(
        {.codes = codes, .first = first, .cols = kCols, .block = block, .scales = scales},
        out_offset));
  }
}

TEST_P(DequantizeKernel, DoesNotDependOnTheFloatingPointEnvironment) {
  const std::vector<std::uint8_t> codes = RandomCodes(5120, 1, true);
  const std::vector<float> scales = RandomScales(0, codes.size(), 256, {1, 8}, 2, 2);
  const DequantizeSpan span{
      .codes = codes, .first = 0, .cols = 256, .block = {1, 8}, .scales = scales};
  DequantizeCounts counts;
  std::vector<std::uint16_t> expected(codes.size());
  DequantizeE4M3ToBF16Scalar(span, expected.data(), counts);
  std::vector<std::uint16_t> expected_e5m2(codes.size());
  DequantizeE5M2ToBF16Scalar(span, expected_e5m2.data(), counts);
  for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
    SCOPED_TRACE(static_cast<int>(kind));
    const FloatEnvironment environment(kind);
    std::vector<std::uint16_t> actual(codes.size());
    DequantizeE4M3ToBF16(span, actual.data(), counts);
    EXPECT_EQ(actual, expected);
    DequantizeE4M3ToBF16Scalar(span, actual.data(), counts);
    EXPECT_EQ(actual, expected);
    std::vector<std::uint16_t> e5m2(codes.size());
    DequantizeE5M2ToBF16(span, e5m2.data(), counts);
    EXPECT_EQ(e5m2, expected_e5m2);
  }
}

TEST_P(DequantizeKernel, AddsToTheCountOfNanCodes) {
  std::vector<std::uint8_t> codes(300, 0x11);
  codes[0] = codes[150] = 0x7F;
  codes[299] = 0xFF;
  const float scale = 1.0F;
  DequantizeCounts counts{.nan_codes = 4};
  std::vector<std::uint16_t> out(codes.size());
  DequantizeE4M3ToBF16(
      {.codes = codes, .first = 0, .cols = 300, .block = {1, 300}, .scales = std::span(&scale, 1)},
      out.data(), counts);
  EXPECT_EQ(counts.nan_codes, 7U);
  EXPECT_EQ(out[0], 0x7FC0);
  EXPECT_EQ(out[150], 0x7FC0);
  EXPECT_EQ(out[299], 0xFFC0);
}

TEST_P(DequantizeKernel, CountsNoInfinitiesOfE5M2AsNan) {
  std::vector<std::uint8_t> codes(300, 0x11);
  codes[0] = 0x7C;
  codes[150] = 0xFC;
  codes[299] = 0xFD;
  const float scale = 1.0F;
  DequantizeCounts counts;
  std::vector<std::uint16_t> out(codes.size());
  DequantizeE5M2ToBF16(
      {.codes = codes, .first = 0, .cols = 300, .block = {1, 300}, .scales = std::span(&scale, 1)},
      out.data(), counts);
  EXPECT_EQ(counts.nan_codes, 1U);
  EXPECT_EQ(out[0], 0x7F80);
  EXPECT_EQ(out[150], 0xFF80);
  EXPECT_EQ(out[299], 0xFFC0);
}

}  // namespace
}  // namespace dsv3::quant

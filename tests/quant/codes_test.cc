#include "quant/codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/quant/float_environment.h"
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

constexpr CodeFormat kFormats[] = {CodeFormat::kI8, CodeFormat::kI4, CodeFormat::kI4Offset,
                                   CodeFormat::kE2M1};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The value of a code from the definition of its format, without the code under test.
double ValueOf(CodeFormat format, unsigned code) {
  constexpr double kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  switch (format) {
    case CodeFormat::kI8:
      return code < 128 ? code : static_cast<double>(code) - 256;
    case CodeFormat::kI4:
      return code < 8 ? code : static_cast<double>(code) - 16;
    case CodeFormat::kI4Offset:
      return static_cast<double>(code) - 8;
    default:
      return code < 8 ? kMagnitudes[code] : -kMagnitudes[code - 8];
  }
}

// BF16((value − zero) × scale) by doubles, in which small codes minus small zeros are exact, and so
// is a product of two floats.
std::uint16_t Formula(double value, float zero, float scale) {
  const float difference = static_cast<float>(value - double{zero});
  const float product = static_cast<float>(double{difference} * double{scale});
  if (std::isnan(product)) return 0x7FC0;
  const auto bits = std::bit_cast<std::uint32_t>(product);
  std::uint32_t upper = bits >> 16;
  const std::uint32_t lower = bits & 0xFFFF;
  if (lower > 0x8000 || (lower == 0x8000 && upper % 2 == 1)) ++upper;
  return static_cast<std::uint16_t>(upper);
}

std::vector<float> Scales() {
  std::vector<float> scales = {
      1.0F,        -1.0F,          0.0F,      -0.0F,       kInfinity,       kNan,
      0x1p-149F,   0x1p-133F,      0x1p-127F, 0x1.8p-126F, 0x1.fffffep127F, 0x1.0101p0F,
      0x1.0201p0F, 0x1.555556p-3F, 3.7e-38F,  448.0F};
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    scales.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  }
  return scales;
}

std::vector<std::uint8_t> AllCodes(CodeFormat format) {
  std::vector<std::uint8_t> codes;
  if (CodeBits(format) == 8) {
    for (unsigned code = 0; code < 256; ++code) codes.push_back(static_cast<std::uint8_t>(code));
  } else {
    for (unsigned code = 0; code < 16; code += 2) {
      codes.push_back(static_cast<std::uint8_t>(code | (code + 1) << 4));
    }
  }
  return codes;
}

// One row of all codes with one scale.
std::vector<std::uint16_t> Row(CodeFormat format, float scale, float zero, bool scalar) {
  const std::vector<std::uint8_t> codes = AllCodes(format);
  const std::size_t count = codes.size() * (8 / CodeBits(format));
  DequantizeSpan span;
  span.codes = codes;
  span.cols = count;
  span.block = {1, count};
  span.scales = {&scale, 1};
  span.zeros = {&zero, 1};
  std::vector<std::uint16_t> out(count);
  DequantizeCounts counts;
  if (scalar) {
    DequantizeToBF16Scalar(format, span, out.data(), counts);
  } else {
    DequantizeToBF16(format, span, out.data(), counts);
  }
  return out;
}

TEST(Codes, EveryCodeIsTheFormula) {
  for (const CodeFormat format : kFormats) {
    for (const float scale : Scales()) {
      for (const float zero : {0.0F, 3.0F, -8.0F, 0.25F}) {
        const std::vector<std::uint16_t> out = Row(format, scale, zero, /*scalar=*/true);
        for (unsigned code = 0; code < out.size(); ++code) {
          ASSERT_EQ(out[code], Formula(ValueOf(format, code), zero, scale))
              << static_cast<int>(format) << " code " << code << " zero " << zero << " scale "
              << std::bit_cast<std::uint32_t>(scale);
        }
      }
    }
  }
}

TEST(Codes, NegativeZeroStaysNegative) {
  EXPECT_EQ(Row(CodeFormat::kE2M1, 1.0F, 0.0F, true)[8], 0x8000);
  EXPECT_EQ(Row(CodeFormat::kE2M1, 1.0F, 0.0F, true)[0], 0x0000);
}

class CodesKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, CodesKernel, EveryTarget(), TargetName);

TEST_P(CodesKernel, EveryCodeIsTheScalarsInEveryEnvironment) {
  for (const CodeFormat format : kFormats) {
    for (const float scale : Scales()) {
      const std::vector<std::uint16_t> expected = Row(format, scale, 0.0F, true);
      ASSERT_EQ(Row(format, scale, 0.0F, false), expected);
      for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
        const FloatEnvironment environment(kind);
        ASSERT_EQ(Row(format, scale, 0.0F, false), expected);
        ASSERT_EQ(Row(format, scale, 0.0F, true), expected);
      }
    }
  }
}

// A matrix and a part of it.
struct Part {
  std::uint64_t cols;
  BlockShape block;
  std::uint64_t first;
  std::uint64_t count;
};

void ExpectScalar(CodeFormat format, const Part& part, bool zeros, std::size_t out_offset) {
  std::mt19937 random(static_cast<std::uint32_t>(part.cols + part.first));
  const std::uint64_t blocks = (part.cols - 1) / part.block.cols + 1;
  const std::uint64_t first_row = part.first / part.cols / part.block.rows;
  const std::uint64_t last_row = (part.first + part.count - 1) / part.cols / part.block.rows;
  std::vector<float> scales(blocks * (last_row - first_row + 1));
  for (float& scale : scales) scale = static_cast<float>(random() % 1000 + 1) / 777.0F;
  std::vector<float> points(zeros ? scales.size() : 0);
  for (float& point : points) point = static_cast<float>(random() % 16) - 8.0F;
  std::vector<std::uint8_t> codes(part.count * CodeBits(format) / 8);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random());

  DequantizeSpan span;
  span.codes = codes;
  span.first = part.first;
  span.cols = part.cols;
  span.block = part.block;
  span.scales = scales;
  span.zeros = points;
  std::vector<std::uint16_t> expected(part.count + 16, 0xAAAA);
  std::vector<std::uint16_t> actual = expected;
  DequantizeCounts counts;
  DequantizeToBF16Scalar(format, span, expected.data() + out_offset, counts);
  DequantizeToBF16(format, span, actual.data() + out_offset, counts);
  ASSERT_EQ(actual, expected) << part.cols << " " << part.first << " " << part.count;
  std::vector<float> floats(part.count);
  DequantizeToFloat(format, span, floats.data());
  for (std::uint64_t i = 0; i < part.count; ++i) {
    ASSERT_EQ(Formula(double{floats[i]}, 0, 1), expected[out_offset + i]);
  }
  EXPECT_EQ(counts.nan_codes, 0U);
}

TEST_P(CodesKernel, EveryPartOfAMatrixIsTheScalars) {
  for (const CodeFormat format : kFormats) {
    for (const BlockShape block :
         {BlockShape{1, 16}, BlockShape{1, 32}, BlockShape{1, 128}, BlockShape{3, 10},
          BlockShape{128, 128}, BlockShape{1 << 20, 1 << 20}}) {
      for (const std::uint64_t cols : {2U, 30U, 64U, 160U, 384U}) {
        for (const std::uint64_t first : {0U, 2U, 16U, 46U}) {
          for (const std::uint64_t count : {2U, 14U, 34U, 700U}) {
            ExpectScalar(format, {cols, block, first, count}, count % 4 == 0, first % 3);
          }
        }
      }
    }
  }
}

// Results that go past the caches, from any place of a cache line on.
TEST_P(CodesKernel, LargePartsAreTheScalars) {
  for (const CodeFormat format : kFormats) {
    for (std::size_t offset = 0; offset < 3; ++offset) {
      ExpectScalar(format, {7168, {1, 32}, 64, (1U << 17) + 102}, true, offset);
      ExpectScalar(format, {336, {128, 128}, 0, 1U << 18}, false, offset);
    }
  }
}

TEST(Codes, TensorScalesMultiplyOrDivideOnce) {
  std::vector<float> scales = {448.0F, 0.015625F, 3.25F};
  const float tensor = 3.1415927F;
  std::vector<float> times = scales;
  ApplyTensorScale(TensorScaleUse::kMultiply, tensor, times);
  std::vector<float> over = scales;
  ApplyTensorScale(TensorScaleUse::kDivide, tensor, over);
  for (std::size_t i = 0; i < scales.size(); ++i) {
    EXPECT_EQ(times[i], scales[i] * tensor);
    EXPECT_EQ(over[i], scales[i] / tensor);
  }
  EXPECT_NE(over[2], scales[2] * (1.0F / tensor));
}

}  // namespace
}  // namespace dsv3::quant

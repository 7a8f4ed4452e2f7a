#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "quant/encode.h"
#include "tests/quant/encode_oracle.h"
#include "tests/quant/targets.h"

// The kernels of all rules against the rules' meaning, where they take different ways: scales of
// all magnitudes, blocks that kernels leave out, large panels and places in memory.
namespace dsv3::quant {
namespace {

const EncodeRule& (*const kRules[])() = {LlmCompressorInt8,  LlmCompressorInt4,  BlockInt8,
                                         ModelOptNvFp4,      LlmCompressorNvFp4, LlmCompressorMxFp4,
                                         LlmCompressorMxFp8, ModelOptMxFp4,      ModelOptMxFp8};

float TensorScaleOf(const EncodeRule& rule, FloatFormat own, float amax) {
  return rule.tensor_scale_of == nullptr ? 1 : rule.tensor_scale_of(amax, own);
}

void ExpectSame(const EncodeRule& rule, FloatFormat own, const std::vector<float>& values,
                std::uint64_t rows, float tensor_scale = 1) {
  const auto bytes = Pack(own, values);
  const std::uint64_t cols = values.size() / rows;
  const Encoded made = EncodeMatrix(rule, own, bytes, rows, cols, tensor_scale);
  const Encoded expected = EncodeMatrix(rule, own, bytes, rows, cols, tensor_scale, true);
  EXPECT_TRUE(made.codes == expected.codes) << rule.name;
  EXPECT_TRUE(made.scale_bytes == expected.scale_bytes) << rule.name;
  const Quality& a = made.quality;
  const Quality& b = expected.quality;
  EXPECT_EQ(a.elements, b.elements) << rule.name;
  EXPECT_EQ(a.blocks, b.blocks) << rule.name;
  EXPECT_EQ(a.saturated, b.saturated) << rule.name;
  EXPECT_EQ(a.flushed_to_zero, b.flushed_to_zero) << rule.name;
  EXPECT_EQ(std::bit_cast<std::uint64_t>(a.max_abs_error),
            std::bit_cast<std::uint64_t>(b.max_abs_error))
      << rule.name;
  // Errors of the largest values may be infinite.
  const double errors = std::min(b.sum_squared_error, std::numeric_limits<double>::max());
  EXPECT_NEAR(a.sum_squares, b.sum_squares, 1e-5 * b.sum_squares) << rule.name;
  EXPECT_NEAR(std::min(a.sum_squared_error, std::numeric_limits<double>::max()), errors,
              1e-5 * errors)
      << rule.name;
}

std::vector<float> RandomValues(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(count);
  for (float& value : values) {
    value = DecodeBF16(EncodeBF16(normal(random)));
    if (random() % 50 == 0) value = random() % 2 == 0 ? 0.0F : -0.0F;
  }
  return values;
}

class EncodeKernels : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, EncodeKernels, EveryTarget(), TargetName);

// Each block has another largest magnitude, and one value of half that.
TEST_P(EncodeKernels, EveryLargestBF16MagnitudeHasTheScaleOfTheMeaning) {
  const std::uint32_t most = MostBits(FloatFormat::kBF16);
  for (const auto& rule_of : kRules) {
    const EncodeRule& rule = rule_of();
    const std::uint64_t cols = rule.block.cols == 0 ? 2 : rule.block.cols;
    std::vector<float> values((most + 1) * cols);
    for (std::uint32_t bits = 0; bits <= most; ++bits) {
      const float amax = FromBits(FloatFormat::kBF16, bits);
      values[bits * cols + bits % cols] = bits % 3 == 0 ? -amax : amax;
      values[bits * cols + (bits + 1) % cols] = amax / 2;
    }
    const std::uint64_t rows = rule.block.cols == 0 ? most + 1 : 1;
    ExpectSame(rule, FloatFormat::kBF16, values, rows);
    if (rule.tensor_scale_of == nullptr) continue;
    for (const float amax : {3e38F, 3.1F, 1e-20F}) {
      ExpectSame(rule, FloatFormat::kBF16, values, rows,
                 rule.tensor_scale_of(amax, FloatFormat::kBF16));
    }
  }
}

// Blocks that are zero, tiny, large or subnormal stand among usual ones.
TEST_P(EncodeKernels, BlocksOfEveryMagnitudeStandBesideEachOther) {
  constexpr float kFactors[] = {1, 1, 1e-30F, 1, 1e4F, 1e-36F, 0, 0, 1, 1e30F, 1, 1};
  for (const auto& rule_of : kRules) {
    const EncodeRule& rule = rule_of();
    const std::uint64_t block = rule.block.cols == 0 ? 96 : rule.block.cols;
    for (const std::uint64_t rows : {1U, 3U, 130U}) {
      const std::uint64_t cols = rule.block.cols == 0 ? block : 37 * block;
      std::vector<float> values = RandomValues(rows * cols, 11);
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] *= kFactors[i / block % std::size(kFactors)];
      }
      for (const FloatFormat own : {FloatFormat::kBF16, FloatFormat::kF32}) {
        ExpectSame(rule, own, values, rows, TensorScaleOf(rule, own, 0.09F));
      }
    }
  }
}

// Panels from 2^17 values on are stored past the caches, wherever in a cache line they begin.
TEST_P(EncodeKernels, LargePanelsAreTheScalarsAtEveryAddress) {
  constexpr std::uint64_t kRows = 260;
  constexpr std::uint64_t kCols = 1056;
  const auto bytes = Pack(FloatFormat::kBF16, RandomValues(kRows * kCols, 12));
  for (const auto& rule_of : kRules) {
    const EncodeRule& rule = rule_of();
    const float tensor_scale = TensorScaleOf(rule, FloatFormat::kBF16, 0.09F);
    const EncodePanel panel{FloatFormat::kBF16, bytes, kRows, kCols, tensor_scale};
    const std::size_t size = kRows * kCols * CodeBits(rule.codes) / 8;
    std::vector<std::uint8_t> expected(size);
    std::vector<std::byte> scales(kRows * kCols);
    Quality quality;
    ASSERT_FALSE(EncodeScalar(rule, panel, expected, scales, quality).has_value());
    for (const std::size_t offset : {0U, 1U, 32U, 63U}) {
      std::vector<std::uint8_t> made(size + 128, 0xA5);
      std::vector<std::byte> made_scales(kRows * kCols);
      ASSERT_FALSE(Encode(rule, panel, std::span(made).subspan(offset, size), made_scales, quality)
                       .has_value());
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(),
                             made.begin() + static_cast<std::ptrdiff_t>(offset)))
          << rule.name;
      EXPECT_EQ(made[offset + size], 0xA5);
      EXPECT_EQ(offset == 0 ? 0xA5 : made[offset - 1], 0xA5);
      EXPECT_TRUE(made_scales == scales) << rule.name;
    }
  }
}

// Tiles of several blocks of rows are taken from left to right; the first value is that of the
// first row.
TEST_P(EncodeKernels, NamesTheFirstValueThatIsNotFiniteAcrossTiles) {
  constexpr std::uint64_t kCols = 4128;
  for (const auto& rule_of : kRules) {
    std::vector<float> values = RandomValues(8 * kCols, 13);
    values[7 * kCols + 3] = std::numeric_limits<float>::infinity();
    values[5 * kCols + 4120] = std::numeric_limits<float>::quiet_NaN();
    const Encoded made =
        EncodeMatrix(rule_of(), FloatFormat::kBF16, Pack(FloatFormat::kBF16, values), 8, kCols);
    ASSERT_TRUE(made.nonfinite.has_value());
    EXPECT_EQ(made.nonfinite->row, 5U);
    EXPECT_EQ(made.nonfinite->col, 4120U);
  }
}

}  // namespace
}  // namespace dsv3::quant

#include "quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/codec.h"
#include "quant/dequantize.h"

namespace dsv3::quant {
namespace {

struct Quantized {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

Quantized Quantize(const std::vector<std::uint16_t>& weights, std::uint64_t rows,
                   std::uint64_t cols, BlockShape block) {
  Quantized result;
  result.codes.resize(weights.size());
  const std::uint64_t block_rows = rows == 0 ? 0 : (rows - 1) / block.rows + 1;
  const std::uint64_t block_cols = cols == 0 ? 0 : (cols - 1) / block.cols + 1;
  result.scales.resize(block_rows * block_cols);
  QuantizeBF16ToE4M3(weights, rows, cols, block, result.codes, result.scales);
  return result;
}

std::vector<std::uint16_t> Encode(const std::vector<float>& values) {
  std::vector<std::uint16_t> weights;
  for (const float value : values) weights.push_back(EncodeBF16(value));
  return weights;
}

TEST(Quantize, ScalesTheLargestMagnitudeTo448) {
  const Quantized result = Quantize(Encode({1.0F, -2.0F, 0.5F, 0.0F}), 2, 2, {2, 2});
  EXPECT_THAT(result.scales, testing::ElementsAre(2.0F / 448.0F));
  EXPECT_THAT(result.codes, testing::ElementsAre(0x76, 0xFE, 0x6E, 0x00));
}

TEST(Quantize, GivesAnAllZeroBlockTheScaleOne) {
  const Quantized result = Quantize(Encode({0.0F, -0.0F}), 1, 2, {128, 128});
  EXPECT_THAT(result.scales, testing::ElementsAre(1.0F));
  EXPECT_THAT(result.codes, testing::ElementsAre(0x00, 0x80));
}

TEST(Quantize, NeverGivesNanHoweverSmallTheWeights) {
  // The scale is subnormal and inexact: the quotient can exceed 448 and is clamped.
  for (std::uint16_t magnitude = 1; magnitude < 0x0100; ++magnitude) {
    const Quantized result =
        Quantize({magnitude, static_cast<std::uint16_t>(0x8000U | magnitude)}, 1, 2, {1, 2});
    ASSERT_GT(result.scales[0], 0.0F);
    ASSERT_EQ(result.codes[0], 0x7E) << magnitude;
    ASSERT_EQ(result.codes[1], 0xFE) << magnitude;
  }
}

TEST(Quantize, TreatsEachBlockByItselfAtRaggedEdges) {
  constexpr std::uint64_t kRows = 5;
  constexpr std::uint64_t kCols = 7;
  const BlockShape block{2, 3};
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = normal(random);
  const std::vector<std::uint16_t> weights = Encode(values);
  const Quantized result = Quantize(weights, kRows, kCols, block);
  ASSERT_EQ(result.scales.size(), 9U);
  for (std::uint64_t block_row = 0; block_row < 3; ++block_row) {
    for (std::uint64_t block_col = 0; block_col < 3; ++block_col) {
      float amax = 0;
      const auto each = [&](const auto& visit) {
        for (std::uint64_t row = block_row * 2; row < std::min(kRows, block_row * 2 + 2); ++row) {
          for (std::uint64_t col = block_col * 3; col < std::min(kCols, block_col * 3 + 3); ++col) {
            visit(row * kCols + col);
          }
        }
      };
      each([&](std::uint64_t at) { amax = std::max(amax, std::abs(DecodeBF16(weights[at]))); });
      const float scale = result.scales[block_row * 3 + block_col];
      EXPECT_EQ(scale, amax / 448.0F);
      each([&](std::uint64_t at) {
        EXPECT_EQ(result.codes[at], EncodeE4M3(DecodeBF16(weights[at]) / scale)) << at;
      });
    }
  }
}

TEST(Quantize, TakesBackWhatDequantisationGave) {
  // Codes that reach 448 in each block, with scales that BF16 holds, survive the way there and
  // back.
  constexpr std::uint64_t kRows = 64;
  constexpr std::uint64_t kCols = 96;
  const BlockShape block{32, 32};
  std::mt19937 random(4);
  std::vector<std::uint8_t> codes(kRows * kCols);
  for (std::uint8_t& code : codes) {
    code = static_cast<std::uint8_t>(random());
    if ((code & 0x7F) == 0x7F) code ^= 1;
  }
  for (std::uint64_t row = 0; row < kRows; row += 32) {
    for (std::uint64_t col = 0; col < kCols; col += 32) codes[row * kCols + col] = 0x7E;
  }
  const std::vector<float> scales = {0x1p-9F, 0x1p-3F, 1.0F, 0x1p-20F, 0x1p5F, 0x1p-7F};
  std::vector<std::uint16_t> weights(codes.size());
  DequantizeCounts counts;
  DequantizeE4M3ToBF16(
      {.codes = codes, .first = 0, .cols = kCols, .block = block, .scales = scales}, weights.data(),
      counts);
  const Quantized result = Quantize(weights, kRows, kCols, block);
  EXPECT_EQ(result.codes, codes);
  EXPECT_EQ(result.scales, scales);
}

TEST(Quantize, AcceptsAnEmptyMatrix) {
  EXPECT_TRUE(Quantize({}, 0, 7, {128, 128}).scales.empty());
  EXPECT_TRUE(Quantize({}, 7, 0, {128, 128}).scales.empty());
}

}  // namespace
}  // namespace dsv3::quant

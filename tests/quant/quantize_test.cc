#include "quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/codec.h"
#include "quant/dequantize.h"
#include "tests/quant/quantize_oracle.h"

namespace dsv3::quant {
namespace {

using testing::ElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Quantized QuantizeValues(const QuantizeFormat& format, const std::vector<float>& values,
                         std::uint64_t rows, std::uint64_t cols,
                         FloatFormat input = FloatFormat::kBF16,
                         Nonfinite nonfinite = Nonfinite::kReport) {
  return QuantizeMatrix(format, input, Pack(input, values), rows, cols, nonfinite);
}

// One block.
Quantized QuantizeBlock(QuantizeFormat format, const std::vector<float>& values,
                        FloatFormat input = FloatFormat::kBF16,
                        Nonfinite nonfinite = Nonfinite::kReport) {
  format.block = {1, values.size()};
  return QuantizeValues(format, values, 1, values.size(), input, nonfinite);
}

TEST(Quantize, ScalesTheLargestMagnitudeTo448) {
  const Quantized result = QuantizeValues({.block = {2, 2}}, {1.0F, -2.0F, 0.5F, 0.0F}, 2, 2);
  EXPECT_THAT(result.scales, ElementsAre(2.0F / 448.0F));
  EXPECT_THAT(result.codes, ElementsAre(0x76, 0xFE, 0x6E, 0x00));
}

TEST(Quantize, GivesAnAllZeroBlockTheScaleOfTheRecipe) {
  const std::vector<float> zeros = {0.0F, -0.0F, 0.0F};
  const auto scale_of = [&](QuantizeRecipe recipe, ScaleFmt fmt, FloatFormat input) {
    const Quantized result = QuantizeBlock({.recipe = recipe, .scale_fmt = fmt}, zeros, input);
    EXPECT_THAT(result.codes, ElementsAre(0x00, 0x80, 0x00));
    EXPECT_EQ(result.quality.flushed_to_zero, 0U);
    return result.scales[0];
  };
  for (const FloatFormat input : kAllFloatFormats) {
    for (const ScaleFmt fmt : kAllScaleFmts) {
      EXPECT_EQ(scale_of(QuantizeRecipe::kDeepSeek, fmt, input), 1.0F);
    }
    EXPECT_EQ(scale_of(QuantizeRecipe::kTransformers, ScaleFmt::kF32, input), 1.0F);
    EXPECT_EQ(scale_of(QuantizeRecipe::kTransformers, ScaleFmt::kE8M0, input), 1.0F);
    EXPECT_EQ(scale_of(QuantizeRecipe::kDeepGemm, ScaleFmt::kF32, input), 1e-4F / 448);
    EXPECT_EQ(scale_of(QuantizeRecipe::kDeepGemm, ScaleFmt::kUe8m0, input), 0x1p-22F);
  }
  const auto llm_scale = [&](FloatFormat input) {
    return scale_of(QuantizeRecipe::kLlmCompressor, ScaleFmt::kF32, input);
  };
  EXPECT_EQ(llm_scale(FloatFormat::kBF16), 0x1p-7F);
  EXPECT_EQ(llm_scale(FloatFormat::kF16), 0x1p-10F);
  EXPECT_EQ(llm_scale(FloatFormat::kF32), 0x1p-23F);
}

TEST(Quantize, ComputesInTheFormatThatTheValuesOnceHad) {
  // Values that are exact in both formats.
  std::vector<float> values;
  for (int i = -200; i <= 200; i += 3) values.push_back(static_cast<float>(i) / 1024);
  const QuantizeFormat own{.recipe = QuantizeRecipe::kLlmCompressor};
  QuantizeFormat was_f16 = own;
  was_f16.own = FloatFormat::kF16;
  const Quantized expected = QuantizeBlock(own, values, FloatFormat::kF16);
  const Quantized result = QuantizeBlock(was_f16, values, FloatFormat::kBF16);
  EXPECT_EQ(result.scales, expected.scales);
  EXPECT_EQ(result.codes, expected.codes);
  EXPECT_NE(result.scales, QuantizeBlock(own, values, FloatFormat::kBF16).scales);
  // A block that is too large for F16.
  const Quantized large = QuantizeBlock(was_f16, {0x1p40F, -1.0F}, FloatFormat::kBF16);
  EXPECT_THAT(large.scales, ElementsAre(65504.0F));
  EXPECT_THAT(large.codes, ElementsAre(0x7E, 0x80));
  EXPECT_EQ(large.quality.saturated, 1U);
}

TEST(Quantize, RoundsScalesUpToPowersOfTwoBeforeItQuantises) {
  const auto quantize = [](float amax, ScaleFmt fmt) {
    return QuantizeBlock({.scale_fmt = fmt}, {amax, amax / 2}, FloatFormat::kF32);
  };
  for (const ScaleFmt fmt : {ScaleFmt::kUe8m0, ScaleFmt::kE8M0}) {
    EXPECT_EQ(quantize(448.0F, fmt).scales[0], 1.0F);  // a power of two stays
    EXPECT_THAT(quantize(448.0F, fmt).codes, ElementsAre(0x7E, 0x76));
    EXPECT_EQ(quantize(std::nextafter(448.0F, 1000.0F), fmt).scales[0], 2.0F);
    EXPECT_THAT(quantize(std::nextafter(448.0F, 1000.0F), fmt).codes, ElementsAre(0x76, 0x6E));
    EXPECT_EQ(quantize(std::nextafter(448.0F, 0.0F), fmt).scales[0], 1.0F);
    EXPECT_EQ(quantize(1.0F, fmt).scales[0], 0x1p-8F);
    EXPECT_EQ(quantize(std::numeric_limits<float>::max(), fmt).scales[0], 0x1p120F);
  }
}

TEST(Quantize, HasASmallestPowerOfTwo) {
  for (const float amax : {1e-45F, 1e-40F, 448 * 0x1p-127F}) {
    const Quantized f32 = QuantizeBlock({.scale_fmt = ScaleFmt::kUe8m0}, {amax}, FloatFormat::kF32);
    EXPECT_EQ(f32.scales[0], 0x1p-126F);
    EXPECT_EQ(f32.scale_bytes.size(), 4U);
    const Quantized e8m0 = QuantizeBlock({.scale_fmt = ScaleFmt::kE8M0}, {amax}, FloatFormat::kF32);
    EXPECT_THAT(e8m0.scale_bytes, ElementsAre(std::byte{0}));
    EXPECT_EQ(e8m0.scales[0], 0x1p-127F);
    const Quantized transformers =
        QuantizeBlock({.recipe = QuantizeRecipe::kTransformers, .scale_fmt = ScaleFmt::kE8M0},
                      {amax}, FloatFormat::kF32);
    EXPECT_THAT(transformers.scale_bytes, ElementsAre(std::byte{1}));  // its own floor
  }
  const float above = std::nextafter(448 * 0x1p-127F, 1.0F);
  EXPECT_EQ(
      QuantizeBlock({.scale_fmt = ScaleFmt::kE8M0}, {above * 1.01F}, FloatFormat::kF32).scales[0],
      0x1p-126F);
}

TEST(Quantize, NeverGivesNanOrAZeroScaleHoweverSmallTheValues) {
  for (const QuantizeRecipe recipe : kAllRecipes) {
    for (const ScaleFmt fmt : kAllScaleFmts) {
      if (!WhyRefused(recipe, fmt, BlockForm::kBlock).empty()) continue;
      for (int exponent = -149; exponent < -90; ++exponent) {
        const float amax = std::ldexp(1.0F, exponent);
        const Quantized result = QuantizeBlock({.recipe = recipe, .scale_fmt = fmt},
                                               {amax, -amax, 0.0F}, FloatFormat::kF32);
        ASSERT_GT(result.scales[0], 0.0F) << exponent;
        ASSERT_TRUE(std::isfinite(result.scales[0])) << exponent;
        ASSERT_NE(result.codes[0] & 0x7F, 0x7F) << exponent;
        ASSERT_EQ(result.codes[1], result.codes[0] | 0x80) << exponent;
        ASSERT_EQ(result.codes[2], 0) << exponent;
      }
    }
  }
}

TEST(Quantize, CountsWhatASubnormalScaleClampsAndWhatBecomesZero) {
  // 1.5 × 448 × 2^-149 over 448 rounds to the scale 2 × 2^-149, 1.4 × to 1 ×.
  const float unit = 0x1p-149F;
  const Quantized result = QuantizeBlock({}, {627 * unit, 448 * unit, 0.0F}, FloatFormat::kF32);
  EXPECT_EQ(result.scales[0], unit);
  EXPECT_THAT(result.codes, ElementsAre(0x7E, 0x7E, 0x00));
  EXPECT_EQ(result.quality.saturated, 1U);
  EXPECT_EQ(result.quality.max_abs_error, static_cast<double>(179 * unit));

  const Quantized flushed = QuantizeBlock({}, {448.0F, 0x1p-10F, -0x1p-11F, 0x1.8p-10F, 0.0F});
  EXPECT_THAT(flushed.codes, ElementsAre(0x7E, 0x00, 0x80, 0x01, 0x00));
  EXPECT_EQ(flushed.quality.flushed_to_zero, 2U);
  EXPECT_EQ(flushed.quality.saturated, 0U);
  EXPECT_EQ(flushed.quality.elements, 5U);
  EXPECT_EQ(flushed.quality.blocks, 1U);
  EXPECT_EQ(flushed.quality.max_abs_error, 0x1p-10);
}

TEST(Quantize, ReportsTheFirstNanOrInfinity) {
  std::vector<float> values(5 * 70, 1.0F);
  values[4 * 70 + 3] = kInfinity;
  values[3 * 70 + 69] = -kNan;
  values[4 * 70 + 2] = kNan;
  for (const FloatFormat input : kAllFloatFormats) {
    const Quantized result = QuantizeValues({.block = {2, 32}}, values, 5, 70, input);
    ASSERT_TRUE(result.nonfinite.has_value());
    EXPECT_EQ(result.nonfinite->row, 3U);
    EXPECT_EQ(result.nonfinite->col, 69U);
    EXPECT_TRUE(std::isnan(result.nonfinite->value));
  }
}

TEST(Quantize, SaturatesNanAndInfinityWhenAskedTo) {
  const std::vector<float> values = {2.0F, kNan, -kNan, kInfinity, -kInfinity, -1.0F};
  for (const FloatFormat input : kAllFloatFormats) {
    for (const QuantizeRecipe recipe : kAllRecipes) {
      const Quantized result =
          QuantizeBlock({.recipe = recipe}, values, input, Nonfinite::kSaturate);
      const Quantized rest = QuantizeBlock({.recipe = recipe}, {2.0F, -1.0F}, input);
      EXPECT_FALSE(result.nonfinite.has_value());
      EXPECT_EQ(result.scales, rest.scales);
      EXPECT_THAT(result.codes, ElementsAre(rest.codes[0], 0x00, 0x80, 0x7E, 0xFE, rest.codes[1]));
      EXPECT_EQ(result.quality.nonfinite, 4U);
      EXPECT_EQ(result.quality.sum_squares, 5.0);
      EXPECT_EQ(result.quality.saturated, 0U);
    }
  }
  const Quantized nothing_finite =
      QuantizeBlock({}, {kNan, -kInfinity}, FloatFormat::kBF16, Nonfinite::kSaturate);
  EXPECT_THAT(nothing_finite.scales, ElementsAre(1.0F));
  EXPECT_THAT(nothing_finite.codes, ElementsAre(0x00, 0xFE));
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
  for (const ScaleFmt fmt : kAllScaleFmts) {
    const Quantized result = QuantizeMatrix({.scale_fmt = fmt, .block = block}, FloatFormat::kBF16,
                                            std::as_bytes(std::span(weights)), kRows, kCols);
    EXPECT_EQ(result.codes, codes);
    EXPECT_EQ(result.scales, scales);
    EXPECT_EQ(result.quality.sum_squared_error, 0);
  }
}

TEST(Quantize, AcceptsAnEmptyMatrix) {
  EXPECT_TRUE(QuantizeValues({}, {}, 0, 7).scales.empty());
  EXPECT_TRUE(QuantizeValues({}, {}, 7, 0).scales.empty());
}

TEST(WhyRefused, LetsPublishedFormulasOfEveryFormThrough) {
  for (const ScaleFmt fmt : kAllScaleFmts) {
    for (const BlockForm form : {BlockForm::kBlock, BlockForm::kRow, BlockForm::kTensor}) {
      EXPECT_EQ(WhyRefused(QuantizeRecipe::kDeepSeek, fmt, form), "");
      EXPECT_EQ(WhyRefused(QuantizeRecipe::kDeepGemm, fmt, form), "");
      EXPECT_EQ(WhyRefused(QuantizeRecipe::kLlmCompressor, fmt, form).empty(),
                fmt == ScaleFmt::kF32);
      EXPECT_EQ(WhyRefused(QuantizeRecipe::kTransformers, fmt, form).empty(),
                fmt != ScaleFmt::kUe8m0 && form == BlockForm::kBlock);
    }
  }
}

TEST(StoredScaleFormat, IsTheValuesOwnWithLlmCompressor) {
  const QuantizeFormat own{.recipe = QuantizeRecipe::kLlmCompressor};
  EXPECT_EQ(StoredScaleFormat(own, FloatFormat::kBF16), ScaleFormat::kBF16);
  EXPECT_EQ(StoredScaleFormat(own, FloatFormat::kF16), ScaleFormat::kF16);
  EXPECT_EQ(StoredScaleFormat(own, FloatFormat::kF32), ScaleFormat::kF32);
  EXPECT_EQ(StoredScaleFormat({}, FloatFormat::kBF16), ScaleFormat::kF32);
  EXPECT_EQ(StoredScaleFormat({.scale_fmt = ScaleFmt::kUe8m0}, FloatFormat::kBF16),
            ScaleFormat::kF32);
  EXPECT_EQ(StoredScaleFormat({.scale_fmt = ScaleFmt::kE8M0}, FloatFormat::kF16),
            ScaleFormat::kE8M0);
}

}  // namespace
}  // namespace dsv3::quant

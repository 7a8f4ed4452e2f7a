// Panels in parts, and panels that have an original.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/codec.h"
#include "quant/dequantize.h"
#include "quant/quantize.h"
#include "tests/quant/quantize_oracle.h"

namespace dsv3::quant {
namespace {

constexpr std::uint64_t kRows = 37;
constexpr std::uint64_t kCols = 150;
constexpr std::uint64_t kBlockCols = 40;
constexpr std::size_t kSize = kRows * kCols;
constexpr std::size_t kBlocks = 4;

QuantizeFormat TheFormat(QuantizeRecipe recipe = QuantizeRecipe::kDeepSeek) {
  return {.recipe = recipe, .scale_fmt = ScaleFmt::kF32, .block = {kRows, kBlockCols}};
}

std::vector<float> RandomValues() {
  std::mt19937 random(21);
  std::student_t_distribution<float> heavy(3.0F);
  std::vector<float> values(kSize);
  for (float& value : values) value = heavy(random);
  return values;
}

void ExpectSame(const Quality& parts, const Quality& whole) {
  EXPECT_EQ(parts.elements, whole.elements);
  EXPECT_EQ(parts.nonfinite, whole.nonfinite);
  EXPECT_EQ(parts.saturated, whole.saturated);
  EXPECT_EQ(parts.flushed_to_zero, whole.flushed_to_zero);
  EXPECT_EQ(parts.blocks, whole.blocks);
  EXPECT_EQ(parts.kept_blocks, whole.kept_blocks);
  EXPECT_EQ(parts.changed_codes, whole.changed_codes);
  EXPECT_EQ(parts.max_abs_error, whole.max_abs_error);
  EXPECT_NEAR(parts.sum_squared_error, whole.sum_squared_error, 1e-5 * whole.sum_squared_error);
  EXPECT_NEAR(parts.sum_squares, whole.sum_squares, 1e-5 * whole.sum_squares);
}

// Cuts the panel at multiples of `step` and does the two passes.
Quantized InParts(const QuantizeFormat& format, FloatFormat input,
                  const std::vector<std::byte>& bytes, std::size_t step, Nonfinite nonfinite) {
  Quantized result;
  std::vector<BlockState> blocks(kBlocks);
  const auto part_at = [&](std::size_t first) {
    const std::size_t size = std::min(step, kSize - first);
    return PanelPart{input,
                     std::span(bytes).subspan(first * FloatBytes(input), size * FloatBytes(input)),
                     first, kCols};
  };
  for (std::size_t first = 0; first < kSize; first += step) {
    std::vector<BlockState> of_part(kBlocks);
    const auto found = UpdateAmax(kBlockCols, part_at(first), nonfinite, of_part);
    if (found && !result.nonfinite) result.nonfinite = found;
    JoinStates(of_part, blocks);
  }
  if (result.nonfinite) return result;
  const ScaleFormat stored = StoredScaleFormat(format, input);
  result.scale_bytes.resize(kBlocks * ScaleBytes(stored));
  StoreScales(format, input, blocks, result.scale_bytes);
  result.codes.resize(kSize);
  for (std::size_t first = 0; first < kSize; first += step) {
    const PanelPart part = part_at(first);
    const std::size_t size = part.values.size() / FloatBytes(input);
    EXPECT_FALSE(QuantizePart(format, part, blocks, nonfinite, nullptr,
                              std::span(result.codes).subspan(first, size), result.quality));
  }
  return result;
}

TEST(QuantizePart, GivesWhatTheWholePanelGives) {
  for (const FloatFormat input : kAllFloatFormats) {
    const std::vector<std::byte> bytes = Pack(input, RandomValues());
    for (const QuantizeRecipe recipe : kAllRecipes) {
      const QuantizeFormat format = TheFormat(recipe);
      const Quantized whole = QuantizeMatrix(format, input, bytes, kRows, kCols);
      for (const std::size_t step :
           {std::size_t{1}, std::size_t{7}, std::size_t{40}, std::size_t{149}, std::size_t{150},
            std::size_t{151}, std::size_t{1000}, kSize}) {
        const Quantized parts = InParts(format, input, bytes, step, Nonfinite::kReport);
        ASSERT_EQ(parts.codes, whole.codes) << step;
        ASSERT_EQ(parts.scale_bytes, whole.scale_bytes) << step;
        ExpectSame(parts.quality, whole.quality);
      }
    }
  }
}

TEST(QuantizePart, TreatsNanAndInfinityAsTheWholePanelDoes) {
  std::vector<float> values = RandomValues();
  values[5 * kCols + 77] = std::numeric_limits<float>::infinity();
  values[6 * kCols + 3] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::byte> bytes = Pack(FloatFormat::kBF16, values);
  const Quantized whole =
      QuantizeMatrix(TheFormat(), FloatFormat::kBF16, bytes, kRows, kCols, Nonfinite::kSaturate);
  for (const std::size_t step : {std::size_t{64}, std::size_t{333}, kSize}) {
    const Quantized reported =
        InParts(TheFormat(), FloatFormat::kBF16, bytes, step, Nonfinite::kReport);
    ASSERT_TRUE(reported.nonfinite.has_value());
    EXPECT_EQ(reported.nonfinite->row, 5U);
    EXPECT_EQ(reported.nonfinite->col, 77U);
    const Quantized parts =
        InParts(TheFormat(), FloatFormat::kBF16, bytes, step, Nonfinite::kSaturate);
    EXPECT_EQ(parts.codes, whole.codes);
    EXPECT_EQ(parts.scale_bytes, whole.scale_bytes);
    ExpectSame(parts.quality, whole.quality);
  }
}

// A panel of codes with scales, and its BF16 copy.
struct Original {
  Original() : codes(kSize), scales(kBlocks), values(kSize) {
    std::mt19937 random(22);
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random());
    for (std::size_t i = 0; i < kBlocks; ++i)
      scales[i] = 0x1.234568p-7F * static_cast<float>(i + 1);
    DequantizeCounts counts;
    DequantizeE4M3ToBF16(
        {.codes = codes, .first = 0, .cols = kCols, .block = {kRows, kBlockCols}, .scales = scales},
        values.data(), counts);
  }

  std::vector<std::uint8_t> codes;  // NaN codes among them
  std::vector<float> scales;
  std::vector<std::uint16_t> values;
};

Quantized Like(const Original& original, std::span<const std::uint16_t> values,
               Nonfinite nonfinite = Nonfinite::kReport) {
  Quantized result;
  result.codes.resize(kSize);
  result.scale_bytes.resize(kBlocks * sizeof(float));
  const QuantizePanel panel{FloatFormat::kBF16, std::as_bytes(values), kRows, kCols};
  result.nonfinite =
      QuantizeLike(TheFormat(), panel, original.codes, std::as_bytes(std::span(original.scales)),
                   nonfinite, result.codes, result.scale_bytes, result.quality);
  DecodeScales(ScaleFormat::kF32, result.scale_bytes, result.scales);
  return result;
}

TEST(QuantizeLike, KeepsAPanelThatWasNotEdited) {
  const Original original;
  const Quantized result = Like(original, original.values);
  EXPECT_FALSE(result.nonfinite.has_value());  // NaN that the original has is kept as well
  EXPECT_EQ(result.codes, original.codes);
  EXPECT_EQ(result.scales, original.scales);
  EXPECT_EQ(result.quality.blocks, kBlocks);
  EXPECT_EQ(result.quality.kept_blocks, kBlocks);
  EXPECT_EQ(result.quality.elements, kSize);
  EXPECT_EQ(result.quality.changed_codes, 0U);
  EXPECT_EQ(result.quality.max_abs_error, 0);
  EXPECT_GT(result.quality.nonfinite, 0U);
  EXPECT_GT(result.quality.sum_squares, 0);
}

TEST(QuantizeLike, QuantisesOnlyEditedBlocks) {
  Original original;
  for (std::uint8_t& code : original.codes) {
    if ((code & 0x7F) == 0x7F) code = 0x30;
  }
  DequantizeCounts counts;
  DequantizeE4M3ToBF16({.codes = original.codes,
                        .first = 0,
                        .cols = kCols,
                        .block = {kRows, kBlockCols},
                        .scales = original.scales},
                       original.values.data(), counts);
  std::vector<std::uint16_t> edited = original.values;
  edited[36 * kCols + 79] ^= 1;  // the last value of the second block
  const Quantized result = Like(original, edited);
  const Quantized fresh = QuantizeMatrix(TheFormat(), FloatFormat::kBF16,
                                         std::as_bytes(std::span(edited)), kRows, kCols);
  std::uint64_t changed = 0;
  for (std::size_t i = 0; i < kSize; ++i) {
    const bool in_edited = i % kCols / kBlockCols == 1;
    EXPECT_EQ(result.codes[i], in_edited ? fresh.codes[i] : original.codes[i]) << i;
    changed += result.codes[i] != original.codes[i] ? 1U : 0U;
  }
  EXPECT_THAT(result.scales, testing::ElementsAre(original.scales[0], fresh.scales[1],
                                                  original.scales[2], original.scales[3]));
  EXPECT_EQ(result.quality.blocks, kBlocks);
  EXPECT_EQ(result.quality.kept_blocks, kBlocks - 1);
  EXPECT_EQ(result.quality.changed_codes, changed);
  EXPECT_GT(result.quality.sum_squared_error, 0);
}

TEST(QuantizeLike, TellsSignsOfZeroApart) {
  Original original;
  const auto zero = static_cast<std::size_t>(
      std::find(original.codes.begin(), original.codes.end(), 0x00) - original.codes.begin());
  ASSERT_LT(zero, kSize);
  std::vector<std::uint16_t> edited = original.values;
  edited[zero] = 0x8000;
  // The block is quantised, and has NaN.
  EXPECT_TRUE(Like(original, edited).nonfinite.has_value());
  const Quantized result = Like(original, edited, Nonfinite::kSaturate);
  EXPECT_EQ(result.codes[zero], 0x80);
  EXPECT_EQ(result.quality.kept_blocks, kBlocks - 1);
}

TEST(QuantizeLike, ReportsNanOfEditedBlocksOnly) {
  const Original original;
  const auto first_nan = [&](std::uint64_t block) {
    for (std::size_t i = 0; i < kSize; ++i) {
      if (i % kCols / kBlockCols == block && (original.codes[i] & 0x7F) == 0x7F) return i;
    }
    return kSize;
  };
  std::vector<std::uint16_t> edited = original.values;
  edited[30 * kCols + 2 * kBlockCols] = EncodeBF16(12345.0F);
  const Quantized result = Like(original, edited);
  ASSERT_TRUE(result.nonfinite.has_value());
  EXPECT_EQ(result.nonfinite->row * kCols + result.nonfinite->col, first_nan(2));
}

TEST(QuantizePart, KeepsBlocksOfAnOriginalInParts) {
  const Original original;
  std::vector<std::uint16_t> edited = original.values;
  edited[20 * kCols + 3] = EncodeBF16(0.4321F);
  const Quantized whole = Like(original, edited, Nonfinite::kSaturate);
  for (const std::size_t step : {std::size_t{13}, std::size_t{150}, std::size_t{999}}) {
    std::vector<BlockState> blocks(kBlocks);
    std::vector<std::byte> scales(kBlocks * sizeof(float));
    std::vector<std::uint8_t> codes(kSize);
    Quality quality;
    const auto each_part = [&](const auto& work) {
      for (std::size_t first = 0; first < kSize; first += step) {
        const std::size_t size = std::min(step, kSize - first);
        work(PanelPart{FloatFormat::kBF16, std::as_bytes(std::span(edited).subspan(first, size)),
                       first, kCols},
             OriginalPart{std::span(original.codes).subspan(first, size),
                          std::as_bytes(std::span(original.scales)), ScaleFormat::kF32},
             std::span(codes).subspan(first, size));
      }
    };
    each_part([&](const PanelPart& part, const OriginalPart& from, auto) {
      UpdateAmaxLike(kBlockCols, part, from, blocks);
    });
    StoreScalesLike(TheFormat(), FloatFormat::kBF16, blocks,
                    std::as_bytes(std::span(original.scales)), scales);
    each_part([&](const PanelPart& part, const OriginalPart& from, auto to) {
      EXPECT_FALSE(
          QuantizePart(TheFormat(), part, blocks, Nonfinite::kSaturate, &from, to, quality));
    });
    EXPECT_EQ(codes, whole.codes);
    EXPECT_EQ(scales, whole.scale_bytes);
    ExpectSame(quality, whole.quality);
  }
}

}  // namespace
}  // namespace dsv3::quant

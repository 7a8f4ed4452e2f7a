// Every kernel that was compiled and that this machine can run, against the scalar truth.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/default_float_environment.h"
#include "quant/quantize_rule.h"
#include "quant/quantize_tile.h"
#include "tests/quant/float_environment.h"
#include "tests/quant/quantize_oracle.h"
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

using internal::BlockRule;

class QuantizeKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, QuantizeKernel, EveryTarget(), TargetName);

// Encodes the values as one block, by the kernel and by the scalar truth, and compares.
void ExpectTruth(const BlockRule& rule, FloatFormat format, std::span<const std::byte> bytes) {
  const std::size_t size = bytes.size() / FloatBytes(format);
  internal::QuantizeTile tile;
  tile.format = format;
  tile.values = bytes.data();
  tile.rows = 1;
  tile.width = tile.stride = tile.block_cols = size;
  std::vector<std::uint8_t> codes(size);
  std::vector<std::uint8_t> truth(size);
  Quality quality;
  Quality true_quality;
  internal::EncodeTile(tile, &rule, false, codes.data(), quality);
  internal::EncodeRunScalar(rule, format, bytes.data(), size, truth.data(), true_quality);
  for (std::size_t i = 0; i < size; ++i) {
    ASSERT_EQ(codes[i], truth[i]) << internal::ValueAt(format, bytes.data(), i) << " with operand "
                                  << rule.operand << " in format " << static_cast<int>(format);
  }
  EXPECT_EQ(quality.elements, true_quality.elements);
  EXPECT_EQ(quality.saturated, true_quality.saturated);
  EXPECT_EQ(quality.nonfinite, true_quality.nonfinite);
  EXPECT_EQ(quality.flushed_to_zero, true_quality.flushed_to_zero);
  EXPECT_NEAR(quality.max_abs_error, true_quality.max_abs_error, 1e-6 * true_quality.max_abs_error);
  EXPECT_NEAR(quality.sum_squared_error, true_quality.sum_squared_error,
              1e-5 * true_quality.sum_squared_error);
  EXPECT_NEAR(quality.sum_squares, true_quality.sum_squares, 1e-5 * true_quality.sum_squares);
}

// All 16-bit values of a format up to a magnitude, of both signs.
std::vector<std::byte> AllUpTo(std::uint32_t first, std::uint32_t last) {
  std::vector<std::byte> bytes;
  for (std::uint32_t magnitude = first; magnitude <= last; ++magnitude) {
    for (const std::uint32_t bits : {magnitude, magnitude | 0x8000U}) {
      bytes.push_back(static_cast<std::byte>(bits));
      bytes.push_back(static_cast<std::byte>(bits >> 8));
    }
  }
  return bytes;
}

std::vector<QuantizeFormat> AllFormats() {
  std::vector<QuantizeFormat> formats;
  for (const QuantizeRecipe recipe : kAllRecipes) {
    for (const ScaleFmt fmt : kAllScaleFmts) {
      if (WhyRefused(recipe, fmt, BlockForm::kBlock).empty()) {
        formats.push_back({.recipe = recipe, .scale_fmt = fmt, .block = {}});
      }
    }
  }
  return formats;
}

TEST_P(QuantizeKernel, EncodesAllBF16InputsWithAllScaleExponents) {
  // For every exponent of amax another mantissa: the values that do not become zero, and some that
  // do. Where the scale is not regular the scalar truth is what runs. The default sees every
  // exponent, the others each fourth.
  std::mt19937 random(11);
  for (const QuantizeFormat& format : AllFormats()) {
    const bool is_default =
        format.recipe == QuantizeRecipe::kDeepSeek && format.scale_fmt == ScaleFmt::kF32;
    for (std::uint32_t exponent = 0; exponent < 255; exponent += is_default ? 1 : 4) {
      const std::uint32_t amax = exponent << 7 | static_cast<std::uint32_t>(random() & 0x7F);
      const BlockRule rule = internal::MakeRule(format, FloatFormat::kBF16,
                                                DecodeBF16(static_cast<std::uint16_t>(amax)));
      const std::uint32_t first = amax > (20U << 7) ? amax - (20U << 7) : 0;
      ASSERT_NO_FATAL_FAILURE(ExpectTruth(rule, FloatFormat::kBF16, AllUpTo(first, amax)));
    }
  }
}

TEST_P(QuantizeKernel, EncodesAllBF16InputsWithAllSignificandsOfAmax) {
  for (const QuantizeFormat& format : AllFormats()) {
    for (std::uint32_t mantissa = 0; mantissa < 128; mantissa += 3) {
      const std::uint32_t amax = (120U + mantissa % 5) << 7 | mantissa;
      const BlockRule rule = internal::MakeRule(format, FloatFormat::kBF16,
                                                DecodeBF16(static_cast<std::uint16_t>(amax)));
      ASSERT_TRUE(rule.regular);
      ASSERT_NO_FATAL_FAILURE(ExpectTruth(rule, FloatFormat::kBF16,
                                          AllUpTo(mantissa % 16 == 0 ? 0 : amax - 4096, amax)));
    }
  }
}

TEST_P(QuantizeKernel, DividesExactlyByScalesThatNoBF16AmaxMakes) {
  // A panel of F32 scales, as an edited block's neighbours have them: every quotient of a 16-bit
  // value is that of a true division.
  std::mt19937 random(12);
  for (const FloatFormat format : {FloatFormat::kBF16, FloatFormat::kF16}) {
    const std::uint32_t top = format == FloatFormat::kBF16 ? 0x3F80 : 0x3C00;  // 1
    const std::vector<std::byte> values =
        AllUpTo(top, top + (format == FloatFormat::kBF16 ? 127 : 1023));
    for (int i = 0; i < 1000; ++i) {
      BlockRule rule;
      rule.operand =
          std::bit_cast<float>((120U << 23) | static_cast<std::uint32_t>(random() & 0x007F'FFFFU));
      rule.scale = rule.operand;
      rule.regular = true;
      ASSERT_NO_FATAL_FAILURE(ExpectTruth(rule, format, values));
    }
  }
}

TEST_P(QuantizeKernel, EncodesF16AndF32) {
  std::mt19937 random(13);
  std::normal_distribution<float> normal;
  for (const QuantizeFormat& format : AllFormats()) {
    for (const float amax : {1.0F, 3.7F, 0.0113F, 6e-5F, 60000.0F}) {
      const BlockRule half = internal::MakeRule(format, FloatFormat::kF16, amax);
      const std::uint32_t top = EncodeF16(amax);
      ASSERT_NO_FATAL_FAILURE(
          ExpectTruth(half, FloatFormat::kF16, AllUpTo(top > 8000 ? top - 8000 : 0, top)));
      std::vector<float> values = {amax, -amax, 0.0F, -0.0F, 1e-45F, -1e-40F};
      for (int i = 0; i < 3000; ++i) {
        const float spread = std::ldexp(amax, -static_cast<int>(random() % 24));
        values.push_back(std::clamp(normal(random) * spread, -amax, amax));
      }
      const BlockRule single = internal::MakeRule(format, FloatFormat::kF32, amax);
      ASSERT_NO_FATAL_FAILURE(
          ExpectTruth(single, FloatFormat::kF32, Pack(FloatFormat::kF32, values)));
    }
  }
}

TEST_P(QuantizeKernel, IsTheSameForEverySizeAndAlignment) {
  const BlockRule rule = internal::MakeRule({}, FloatFormat::kBF16, 1.0F);
  std::mt19937 random(14);
  std::normal_distribution<float> normal(0, 0.2F);
  std::vector<float> values(400);
  for (float& value : values) value = std::clamp(normal(random), -1.0F, 1.0F);
  for (const FloatFormat format : kAllFloatFormats) {
    const std::vector<std::byte> bytes = Pack(format, values);
    for (std::size_t size = 1; size < 200; ++size) {
      const std::size_t offset = size % 7 * FloatBytes(format);
      const auto part = std::span(bytes).subspan(offset, size * FloatBytes(format));
      ASSERT_NO_FATAL_FAILURE(ExpectTruth(rule, format, part));
    }
  }
}

TEST_P(QuantizeKernel, FindsTheLargestErrorHoweverLittleLaterBlocksExceedEarlierOnes) {
  constexpr std::size_t kBlockCols = 128;
  constexpr std::size_t kCols = 16384;
  std::mt19937 random(18);
  std::normal_distribution<float> normal;
  std::vector<float> values(kCols);
  for (std::size_t i = 0; i < kCols; ++i) {
    values[i] = normal(random) * (1 + 0.002F * static_cast<float>(i / kBlockCols));
  }
  const std::vector<std::byte> bytes = Pack(FloatFormat::kBF16, values);
  for (QuantizeFormat format : AllFormats()) {
    format.block = {1, kBlockCols};
    const Quantized result = QuantizeMatrix(format, FloatFormat::kBF16, bytes, 1, kCols);
    Quality truth;
    for (std::size_t i = 0; i < kCols; i += kBlockCols) {
      float amax = 0;
      for (std::size_t j = i; j < i + kBlockCols; ++j) {
        amax = std::max(amax, std::abs(internal::ValueAt(FloatFormat::kBF16, bytes.data(), j)));
      }
      std::vector<std::uint8_t> codes(kBlockCols);
      internal::EncodeRunScalar(internal::MakeRule(format, FloatFormat::kBF16, amax),
                                FloatFormat::kBF16, bytes.data() + 2 * i, kBlockCols, codes.data(),
                                truth);
    }
    EXPECT_EQ(result.quality.max_abs_error, truth.max_abs_error);
  }
}

TEST_P(QuantizeKernel, EqualsTheOracleOnWholeMatrices) {
  std::mt19937 random(15);
  std::student_t_distribution<float> heavy(2.0F);
  constexpr std::uint64_t kRows = 41;
  constexpr std::uint64_t kCols = 197;
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = std::clamp(heavy(random), -60000.0F, 60000.0F);
  for (std::size_t i = 0; i < 32 * 32; ++i) values[(i / 32) * kCols + i % 32] = 0;  // a zero block
  for (const FloatFormat input : kAllFloatFormats) {
    const std::vector<std::byte> bytes = Pack(input, values);
    for (QuantizeFormat format : AllFormats()) {
      for (const BlockShape block :
           {BlockShape{128, 128}, BlockShape{32, 32}, BlockShape{1, 128}, BlockShape{7, 50},
            BlockShape{1, kCols}, BlockShape{kRows, kCols}}) {
        format.block = block;
        const Quantized result = QuantizeMatrix(format, input, bytes, kRows, kCols);
        const std::uint64_t across = (kCols - 1) / block.cols + 1;
        for (std::size_t scale = 0; scale < result.scales.size(); ++scale) {
          const std::uint64_t row = scale / across * block.rows;
          const std::uint64_t col = scale % across * block.cols;
          float amax = 0;
          const auto each = [&](const auto& visit) {
            for (std::uint64_t r = row; r < std::min(kRows, row + block.rows); ++r) {
              for (std::uint64_t c = col; c < std::min(kCols, col + block.cols); ++c) {
                visit(r * kCols + c, internal::ValueAt(input, bytes.data(), r * kCols + c));
              }
            }
          };
          each([&](std::size_t, float x) { amax = std::max(amax, std::abs(x)); });
          const OracleRule rule = OracleRuleOf(format, input, amax);
          ASSERT_EQ(result.scales[scale], rule.scale) << amax;
          if (block.rows > 7 && block.rows != 32) continue;  // the search for codes is slow
          each([&](std::size_t at, float x) {
            ASSERT_EQ(result.codes[at], OracleCode(format, input, rule, x)) << x << " " << amax;
          });
        }
      }
    }
  }
}

TEST_P(QuantizeKernel, IgnoresTheFloatEnvironment) {
  std::mt19937 random(16);
  std::normal_distribution<float> normal;
  std::vector<float> values(40 * 70);
  for (float& value : values) value = normal(random);
  for (std::size_t i = 0; i < values.size(); i += 3) values[i] *= 1e-38F;
  for (std::size_t i = 0; i < 70; ++i) values[i] = 1e-40F * static_cast<float>(i);
  for (const FloatFormat input : kAllFloatFormats) {
    const std::vector<std::byte> bytes = Pack(input, values);
    for (QuantizeFormat format : AllFormats()) {
      format.block = {1, 35};
      const Quantized expected = QuantizeMatrix(format, input, bytes, 40, 70);
      for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
        Quantized result;
        {
          const FloatEnvironment environment(kind);
          result = QuantizeMatrix(format, input, bytes, 40, 70);
        }
        ASSERT_EQ(result.codes, expected.codes);
        ASSERT_EQ(result.scale_bytes, expected.scale_bytes);
      }
    }
  }
}

TEST_P(QuantizeKernel, StoresLargeResultsPastTheCaches) {
  // Aligned for it and not: the same codes as in small pieces.
  constexpr std::uint64_t kCols = 1536;
  constexpr std::uint64_t kRows = 128;
  std::mt19937 random(17);
  std::normal_distribution<float> normal;
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = normal(random);
  const std::vector<std::byte> bytes = Pack(FloatFormat::kBF16, values);
  const QuantizePanel panel{FloatFormat::kBF16, bytes, kRows, kCols};
  std::vector<std::uint8_t> memory(values.size() + 128);
  std::vector<std::uint8_t> first;
  for (const std::size_t offset : std::initializer_list<std::size_t>{0, 1, 16, 63}) {
    std::vector<std::byte> scales(kCols / 128 * 4);
    Quality quality;
    const auto codes = std::span(memory).subspan(offset, values.size());
    EXPECT_FALSE(Quantize({}, panel, Nonfinite::kReport, codes, scales, quality));
    if (first.empty()) first.assign(codes.begin(), codes.end());
    EXPECT_TRUE(std::equal(codes.begin(), codes.end(), first.begin()));
    EXPECT_EQ(quality.elements, values.size());
    EXPECT_EQ(quality.blocks, 12U);
  }
  const Quantized rowwise =
      QuantizeMatrix({.block = {128, 128}}, FloatFormat::kBF16, bytes, kRows, kCols);
  EXPECT_EQ(rowwise.codes, first);
}

}  // namespace
}  // namespace dsv3::quant

#include "quant/encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/quant/encode_oracle.h"
#include "tests/quant/float_environment.h"
#include "tests/quant/targets.h"

// The rules whose codes are integers, and what all rules have in common.
namespace dsv3::quant {
namespace {

struct IntegerForm {
  const EncodeRule& (*rule)();
  double steps;  // of the scale in the largest magnitude
  bool own;      // rounds to the values' own format
  int lowest;
  int highest;
  int offset;
};

const IntegerForm kForms[] = {{LlmCompressorInt8, 127.5, true, -128, 127, 0},
                              {LlmCompressorInt4, 7.5, true, -8, 7, 8},
                              {BlockInt8, 127, false, -128, 127, 0}};

double OracleScale(const IntegerForm& form, FloatFormat own, float amax) {
  const double scale = RoundToFloat(double{amax} / form.steps);
  if (!form.own) return scale == 0 ? 1 : scale;
  const double rounded = RoundToOwn(own, scale);
  if (rounded != 0) return rounded;
  return std::ldexp(1.0, own == FloatFormat::kBF16 ? -7 : own == FloatFormat::kF16 ? -10 : -23);
}

int OracleInteger(const IntegerForm& form, FloatFormat own, float value, double scale) {
  double quotient = RoundToFloat(double{value} / scale);
  if (form.own) quotient = RoundToOwn(own, quotient);
  const double clamped = std::clamp<double>(quotient, form.lowest, form.highest);
  return static_cast<int>(std::nearbyint(clamped)) + form.offset;
}

// Magnitudes at which scales are made in different ways, and some at random.
std::vector<std::uint32_t> SomeBits(FloatFormat own, std::size_t random_ones) {
  const std::uint32_t most = MostBits(own);
  const bool wide = own == FloatFormat::kF32;
  std::vector<std::uint32_t> bits = {0, 1, 2, 63, 64, 65, 127, 128, 129, 255, most, most - 1};
  for (const float value : {0.5F, 1.0F, 7.5F, 127.5F, 0.0625F, 3.0F}) {
    std::uint32_t one = std::bit_cast<std::uint32_t>(value);
    if (own == FloatFormat::kBF16) one = EncodeBF16(value);
    if (own == FloatFormat::kF16) one = EncodeF16(value);
    for (const std::uint32_t near : {one - 1, one, one + 1}) bits.push_back(near);
  }
  std::mt19937 random(3);
  for (std::size_t i = 0; i < random_ones; ++i) {
    bits.push_back(static_cast<std::uint32_t>(random()) % (wide ? most : most + 1));
  }
  return bits;
}

// One row of values whose largest magnitude is `amax`, in every group of 32.
std::vector<float> RowBelow(FloatFormat own, std::uint32_t amax, std::size_t step) {
  std::vector<float> row;
  std::uint32_t bits = 0;
  while (bits <= amax || row.size() % 32 != 0) {
    const float value = FromBits(own, std::min(bits, amax));
    if (row.size() % 32 == 0) {
      row.push_back(FromBits(own, amax) * (row.size() % 64 == 0 ? 1.0F : -1.0F));
      continue;
    }
    row.push_back(value);
    if (row.size() % 32 != 0) row.push_back(-value);
    bits += static_cast<std::uint32_t>(step);
  }
  return row;
}

class EncodeKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, EncodeKernel, EveryTarget(), TargetName);

TEST_P(EncodeKernel, EveryBF16ValueHasTheCodeOfTheFormula) {
  const FloatFormat own = FloatFormat::kBF16;
  for (const IntegerForm& form : kForms) {
    for (const std::uint32_t amax : SomeBits(own, 12)) {
      const std::vector<float> row = RowBelow(own, amax, 1);
      const double scale = OracleScale(form, own, FromBits(own, amax));
      const Encoded made = EncodeMatrix(form.rule(), own, Pack(own, row), 1, row.size());
      ASSERT_FALSE(made.nonfinite.has_value());
      ASSERT_EQ(double{made.scales[0]}, scale) << amax;
      ASSERT_EQ(double{made.scales.back()}, scale) << amax;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const auto code = static_cast<std::uint8_t>(OracleInteger(form, own, row[i], scale));
        ASSERT_EQ(made.codes[i], code) << form.rule().name << " " << row[i] << " of " << amax;
      }
    }
  }
}

TEST_P(EncodeKernel, OtherFormatsHaveTheCodesOfTheFormula) {
  for (const FloatFormat own : {FloatFormat::kF16, FloatFormat::kF32}) {
    for (const IntegerForm& form : kForms) {
      for (const std::uint32_t amax : SomeBits(own, 12)) {
        const std::vector<float> row = RowBelow(own, amax, amax / 3000 + 1);
        const double scale = OracleScale(form, own, FromBits(own, amax));
        const Encoded made = EncodeMatrix(form.rule(), own, Pack(own, row), 1, row.size());
        ASSERT_EQ(double{made.scales[0]}, scale) << amax;
        for (std::size_t i = 0; i < row.size(); ++i) {
          const auto code = static_cast<std::uint8_t>(OracleInteger(form, own, row[i], scale));
          ASSERT_EQ(made.codes[i], code) << form.rule().name << " " << row[i] << " of " << amax;
        }
      }
    }
  }
}

// A matrix of random values, some zero, some negative zero.
std::vector<float> RandomMatrix(std::uint64_t rows, std::uint64_t cols, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(rows * cols);
  for (float& value : values) {
    value = DecodeBF16(EncodeBF16(normal(random)));
    if (random() % 50 == 0) value = random() % 2 == 0 ? 0.0F : -0.0F;
  }
  return values;
}

void ExpectEqual(const Encoded& made, const Encoded& expected) {
  EXPECT_TRUE(made.codes == expected.codes);
  EXPECT_TRUE(made.scale_bytes == expected.scale_bytes);
  const Quality& a = made.quality;
  const Quality& b = expected.quality;
  EXPECT_EQ(a.elements, b.elements);
  EXPECT_EQ(a.blocks, b.blocks);
  EXPECT_EQ(a.saturated, b.saturated);
  EXPECT_EQ(a.flushed_to_zero, b.flushed_to_zero);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(a.max_abs_error),
            std::bit_cast<std::uint64_t>(b.max_abs_error));
}

TEST_P(EncodeKernel, EveryShapeIsTheScalarsInEveryEnvironment) {
  for (const IntegerForm& form : kForms) {
    const EncodeRule& rule = form.rule();
    for (const FloatFormat own : kAllFloatFormats) {
      for (const std::uint64_t rows : {1U, 3U, 128U, 131U}) {
        for (const std::uint64_t cols : {2U, 32U, 96U, 130U, 416U}) {
          if (rule.block.cols == 32 && cols % 32 != 0) continue;
          const auto values = Pack(own, RandomMatrix(rows, cols, 1));
          const Encoded expected = EncodeMatrix(rule, own, values, rows, cols, 1, true);
          ExpectEqual(EncodeMatrix(rule, own, values, rows, cols), expected);
          for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
            const FloatEnvironment environment(kind);
            const Encoded made = EncodeMatrix(rule, own, values, rows, cols);
            ASSERT_TRUE(made.codes == expected.codes);
            ASSERT_TRUE(made.scale_bytes == expected.scale_bytes);
          }
        }
      }
    }
  }
}

TEST_P(EncodeKernel, BlocksTakeTheirRowsTogether) {
  const IntegerForm& form = kForms[2];
  constexpr std::uint64_t kRows = 200;
  constexpr std::uint64_t kCols = 300;
  const std::vector<float> values = RandomMatrix(kRows, kCols, 2);
  const Encoded made =
      EncodeMatrix(form.rule(), FloatFormat::kBF16, Pack(FloatFormat::kBF16, values), kRows, kCols);
  ASSERT_EQ(made.scales.size(), 6U);
  for (std::uint64_t i = 0; i < values.size(); ++i) {
    const std::uint64_t block_row = i / kCols / 128;
    const std::uint64_t block_col = i % kCols / 128;
    float amax = 0;
    for (std::uint64_t j = 0; j < values.size() && i % 997 == 0; ++j) {
      if (j / kCols / 128 != block_row || j % kCols / 128 != block_col) continue;
      amax = std::max(amax, std::abs(values[j]));
    }
    const double scale = double{made.scales[block_row * 3 + block_col]};
    if (i % 997 == 0) {
      ASSERT_EQ(scale, OracleScale(form, FloatFormat::kBF16, amax));
    }
    ASSERT_EQ(made.codes[i],
              static_cast<std::uint8_t>(OracleInteger(form, FloatFormat::kBF16, values[i], scale)));
  }
}

TEST_P(EncodeKernel, MeasuresWhatAReaderGets) {
  for (const IntegerForm& form : kForms) {
    const EncodeRule& rule = form.rule();
    constexpr std::uint64_t kRows = 5;
    constexpr std::uint64_t kCols = 1120;
    std::vector<float> values = RandomMatrix(kRows, kCols, 7);
    for (std::uint64_t i = 0; i < kCols; ++i) values[i] *= 1e-30F;         // tiny
    for (std::uint64_t i = kCols; i < 2 * kCols; ++i) values[i] *= 1e30F;  // large
    for (std::uint64_t i = 2 * kCols; i < 3 * kCols; ++i) values[i] = 0.0F;
    const auto bytes = Pack(FloatFormat::kF32, values);
    const Encoded made = EncodeMatrix(rule, FloatFormat::kF32, bytes, kRows, kCols);
    const BlockShape block = BlockOf(rule, kCols);
    const std::uint64_t side = (kCols - 1) / block.cols + 1;
    double squares = 0;
    double errors = 0;
    double largest = 0;
    std::uint64_t flushed = 0;
    for (std::uint64_t i = 0; i < values.size(); ++i) {
      const float scale = made.scales[i / kCols / block.rows * side + i % kCols / block.cols];
      const float decoded = DecodeCode(rule.codes, made.codes[i]) * scale;
      const double error = double{values[i]} - double{decoded};
      squares += double{values[i]} * double{values[i]};
      errors += error * error;
      largest = std::max(largest, std::abs(error));
      flushed += values[i] != 0 && decoded == 0 ? 1 : 0;
    }
    EXPECT_EQ(made.quality.elements, values.size());
    EXPECT_EQ(made.quality.blocks, made.scales.size());
    EXPECT_EQ(made.quality.flushed_to_zero, flushed);
    EXPECT_EQ(made.quality.saturated, 0U);
    EXPECT_NEAR(made.quality.max_abs_error, largest, 1e-6 * largest);
    EXPECT_NEAR(made.quality.sum_squares, squares, 1e-5 * squares);
    EXPECT_NEAR(made.quality.sum_squared_error, errors, 1e-5 * errors);
  }
}

TEST_P(EncodeKernel, NamesTheFirstValueThatIsNotFinite) {
  for (const IntegerForm& form : kForms) {
    std::vector<float> values = RandomMatrix(150, 160, 4);
    values[140 * 160 + 3] = -std::numeric_limits<float>::infinity();
    values[130 * 160 + 77] = std::numeric_limits<float>::quiet_NaN();
    const Encoded made =
        EncodeMatrix(form.rule(), FloatFormat::kBF16, Pack(FloatFormat::kBF16, values), 150, 160);
    ASSERT_TRUE(made.nonfinite.has_value());
    EXPECT_EQ(made.nonfinite->row, 130U);
    EXPECT_EQ(made.nonfinite->col, 77U);
    EXPECT_TRUE(std::isnan(made.nonfinite->value));
  }
}

// A subnormal scale has too few bits for its largest value.
TEST_P(EncodeKernel, CountsValuesBeyondTheCodes) {
  std::vector<float> values(300, 0x1p-149F);
  values[7] = 190 * 0x1p-149F;
  values[8] = -190 * 0x1p-149F;
  values[9] = 128 * 0x1p-149F;
  const Encoded made = EncodeMatrix(BlockInt8(), FloatFormat::kF32, Pack(FloatFormat::kF32, values),
                                    1, values.size());
  EXPECT_EQ(made.scales[0], 0x1p-149F);
  EXPECT_EQ(made.codes[7], 127);
  EXPECT_EQ(made.codes[8], 128);
  EXPECT_EQ(made.quality.saturated, 2U);
}

TEST(Encode, EveryLargestMagnitudeHasTheScaleOfTheFormula) {
  for (const FloatFormat own : {FloatFormat::kBF16, FloatFormat::kF16}) {
    for (const IntegerForm& form : kForms) {
      for (std::uint32_t amax = 0; amax <= MostBits(own); ++amax) {
        const BlockScale scale = form.rule().scale_of(FromBits(own, amax), own, 1);
        ASSERT_EQ(double{scale.divisor}, OracleScale(form, own, FromBits(own, amax))) << amax;
      }
    }
  }
}

TEST(Encode, ZerosOfEitherSignAreZero) {
  const std::vector<float> values(64, -0.0F);
  const auto bytes = Pack(FloatFormat::kBF16, values);
  const Encoded int8 = EncodeMatrix(LlmCompressorInt8(), FloatFormat::kBF16, bytes, 1, 64);
  EXPECT_EQ(int8.scales[0], 0x1p-7F);
  EXPECT_EQ(int8.codes, std::vector<std::uint8_t>(64, 0));
  const Encoded int4 = EncodeMatrix(LlmCompressorInt4(), FloatFormat::kBF16, bytes, 1, 64);
  EXPECT_EQ(int4.scales[1], 0x1p-7F);
  EXPECT_EQ(int4.codes, std::vector<std::uint8_t>(64, 8));
  const Encoded blocks = EncodeMatrix(BlockInt8(), FloatFormat::kBF16, bytes, 1, 64);
  EXPECT_EQ(blocks.scales[0], 1.0F);
}

TEST(Encode, Fp8IsWhatQuantizeMakes) {
  const auto values = Pack(FloatFormat::kBF16, RandomMatrix(300, 200, 5));
  for (const EncodeRule* const rule : {&DeepSeekFp8(), &LlmCompressorFp8()}) {
    const Encoded made = EncodeMatrix(*rule, FloatFormat::kBF16, values, 300, 200);
    const Quantized expected = QuantizeMatrix(*rule->fp8, FloatFormat::kBF16, values, 300, 200);
    EXPECT_TRUE(made.codes == expected.codes);
    EXPECT_TRUE(made.scale_bytes == expected.scale_bytes);
    EXPECT_EQ(made.quality.blocks, expected.quality.blocks);
  }
}

}  // namespace
}  // namespace dsv3::quant

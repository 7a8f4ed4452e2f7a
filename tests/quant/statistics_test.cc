#include "quant/statistics.h"

#include <algorithm>
#include <bit>
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
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::uint32_t Bits(float value) { return std::bit_cast<std::uint32_t>(value); }

// The same number, NaNs being one.
bool Same(float a, float b) { return std::isnan(a) ? std::isnan(b) : Bits(a) == Bits(b); }

class StatisticsKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, StatisticsKernel, EveryTarget(), TargetName);

struct FormatCase {
  StoredFloat format;
  float (*decode)(std::uint32_t bits);
};

const FormatCase kFormats[] = {
    {StoredFloat::kE4M3, [](std::uint32_t b) { return DecodeE4M3(static_cast<std::uint8_t>(b)); }},
    {StoredFloat::kE5M2, [](std::uint32_t b) { return DecodeE5M2(static_cast<std::uint8_t>(b)); }},
    {StoredFloat::kE8M0, [](std::uint32_t b) { return DecodeE8M0(static_cast<std::uint8_t>(b)); }},
    {StoredFloat::kBF16, [](std::uint32_t b) { return DecodeBF16(static_cast<std::uint16_t>(b)); }},
    {StoredFloat::kF16, [](std::uint32_t b) { return DecodeF16(static_cast<std::uint16_t>(b)); }},
    {StoredFloat::kF32, [](std::uint32_t b) { return std::bit_cast<float>(b); }},
};

// Every code of a format, or many of them.
std::vector<std::uint32_t> Codes(StoredFloat format) {
  std::vector<std::uint32_t> codes;
  const std::size_t bytes = ElementBytes(format);
  if (bytes < 4) {
    for (std::uint32_t code = 0; code < 1U << (8 * bytes); ++code) codes.push_back(code);
  } else {
    std::mt19937 random(1);
    for (int i = 0; i < 5000; ++i) codes.push_back(static_cast<std::uint32_t>(random()));
  }
  return codes;
}

// The codes as they lie in a file, from an address that is no multiple of anything.
std::vector<std::byte> Packed(StoredFloat format, std::span<const std::uint32_t> codes) {
  std::vector<std::byte> bytes(1);
  for (const std::uint32_t code : codes) {
    for (std::size_t i = 0; i < ElementBytes(format); ++i) {
      bytes.push_back(static_cast<std::byte>(code >> (8 * i)));
    }
  }
  return bytes;
}

TEST_P(StatisticsKernel, DecodesEveryCodeOfEveryFormat) {
  for (const FormatCase& c : kFormats) {
    SCOPED_TRACE(static_cast<int>(c.format));
    const std::vector<std::uint32_t> codes = Codes(c.format);
    const std::vector<std::byte> bytes = Packed(c.format, codes);
    std::vector<float> out(codes.size());
    DecodeFloats(c.format, std::span(bytes).subspan(1), out.data());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      ASSERT_TRUE(Same(out[i], c.decode(codes[i]))) << "code " << codes[i] << " gave " << out[i];
    }
  }
}

TEST_P(StatisticsKernel, DecodesFiniteCodesApartFromOthers) {
  for (const FormatCase& c : kFormats) {
    SCOPED_TRACE(static_cast<int>(c.format));
    std::vector<std::uint32_t> codes = Codes(c.format);
    std::erase_if(codes, [&](std::uint32_t code) { return !std::isfinite(c.decode(code)); });
    const std::vector<std::byte> bytes = Packed(c.format, codes);
    std::vector<float> out(codes.size());
    DecodeFloats(c.format, std::span(bytes).subspan(1), out.data());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      ASSERT_TRUE(Same(out[i], c.decode(codes[i]))) << "code " << codes[i] << " gave " << out[i];
    }
  }
}

TEST_P(StatisticsKernel, DecodesEveryLengthAndNothingBeyond) {
  for (const FormatCase& c : kFormats) {
    for (std::size_t length = 0; length < 140; ++length) {
      std::vector<std::uint32_t> codes(length);
      for (std::size_t i = 0; i < length; ++i) codes[i] = static_cast<std::uint32_t>(i * 37 + 1);
      const std::vector<std::byte> bytes = Packed(c.format, codes);
      std::vector<float> out(length + 64, 77.0F);
      DecodeFloats(c.format, std::span(bytes).subspan(1), out.data());
      for (std::size_t i = 0; i < out.size(); ++i) {
        ASSERT_TRUE(Same(out[i], i < length ? c.decode(codes[i]) : 77.0F)) << length << " " << i;
      }
    }
  }
}

TEST_P(StatisticsKernel, MultipliesCodesByTheScalesOfTheirBlocks) {
  std::mt19937 random(3);
  for (int round = 0; round < 600; ++round) {
    const Fp8Format format = round % 2 == 0 ? Fp8Format::kE4M3 : Fp8Format::kE5M2;
    std::vector<std::uint8_t> codes(random() % 700);
    for (std::uint8_t& code : codes) {
      code = static_cast<std::uint8_t>(random());
      // Without any special code now and then.
      if (round % 3 == 0) code &= 0xBF;
    }
    const std::uint64_t block_cols = round % 50 == 0 ? UINT64_MAX : 1 + random() % 200;
    const std::uint64_t column = random() % 1000;
    std::vector<float> scales(codes.size() + 2);
    for (float& scale : scales) {
      scale = std::bit_cast<float>((static_cast<std::uint32_t>(random()) & 0x807FFFFFU) |
                                   (100 + static_cast<std::uint32_t>(random()) % 50) << 23);
      if (random() % 8 == 0) scale = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    }
    std::vector<float> out(codes.size() + 40, 77.0F);
    DecodeScaledFloats(format, {codes, column, block_cols, scales.data()}, out.data());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const float scale = scales[(column + i) / block_cols - column / block_cols];
      const float code = format == Fp8Format::kE4M3 ? DecodeE4M3(codes[i]) : DecodeE5M2(codes[i]);
      ASSERT_TRUE(Same(out[i], code * scale))
          << "code " << int{codes[i]} << " scale " << scale << " gave " << out[i];
    }
    for (std::size_t i = codes.size(); i < out.size(); ++i) ASSERT_EQ(out[i], 77.0F);
  }
}

void ExpectEqualStatistics(const FloatStatistics& actual, const FloatStatistics& expected) {
  EXPECT_EQ(actual.values, expected.values);
  EXPECT_EQ(actual.nans, expected.nans);
  EXPECT_EQ(actual.infinities, expected.infinities);
  EXPECT_EQ(Bits(actual.absmax), Bits(expected.absmax));
  EXPECT_EQ(std::bit_cast<std::uint64_t>(actual.sum_squares),
            std::bit_cast<std::uint64_t>(expected.sum_squares));
  EXPECT_EQ(actual.constant, expected.constant);
  EXPECT_TRUE(Same(actual.first, expected.first));
}

std::vector<float> NormalValues(std::size_t size, float deviation, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

TEST_P(StatisticsKernel, MeasuresAsTheScalarDefinitionToTheLastBit) {
  std::uint32_t seed = 0;
  for (const std::size_t size : std::vector<std::size_t>{0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64,
                                                         100, 511, 512, 513, 1000, 2048, 5000}) {
    for (const float deviation : {1.0F, 0.02F, 1e-30F, 1e30F, 1e-42F, 0.0F}) {
      SCOPED_TRACE(std::to_string(size) + " values, deviation " + std::to_string(deviation));
      std::vector<float> values = NormalValues(size, deviation, ++seed);
      ExpectEqualStatistics(MeasureFloats(values), MeasureFloatsScalar(values));
      if (size < 2) continue;
      values[seed % size] = seed % 2 == 0 ? kNan : -kInfinity;
      ExpectEqualStatistics(MeasureFloats(values), MeasureFloatsScalar(values));
    }
  }
}

TEST_P(StatisticsKernel, FindsWhatIsOddWhereverItStands) {
  for (const std::size_t size : {std::size_t{70}, std::size_t{600}}) {
    for (std::size_t at = 0; at < size; ++at) {
      std::vector<float> values(size, 0.25F);
      ASSERT_TRUE(MeasureFloats(values).constant);
      values[at] = -0.25F;
      EXPECT_EQ(MeasureFloats(values).constant, false) << at;
      EXPECT_EQ(MeasureFloats(values).absmax, 0.25F);
      values[at] = -3.0F;
      EXPECT_EQ(MeasureFloats(values).absmax, 3.0F) << at;
      values[at] = -kNan;
      EXPECT_EQ(MeasureFloats(values).nans, 1U) << at;
      EXPECT_EQ(MeasureFloats(values).absmax, 0.25F);
      values[at] = kInfinity;
      EXPECT_EQ(MeasureFloats(values).infinities, 1U) << at;
      EXPECT_DOUBLE_EQ(MeasureFloats(values).sum_squares, 0.0625 * (double(size) - 1));
    }
  }
}

TEST_P(StatisticsKernel, SumsSquaresOfAnyMagnitudeClosely) {
  for (const float deviation : {1e-44F, 1e-38F, 1e-20F, 1e-12F, 1e-3F, 1.0F, 1e10F, 1e17F, 1e37F}) {
    SCOPED_TRACE(deviation);
    const std::vector<float> values = NormalValues(4096, deviation, 9);
    double exact = 0;
    for (const float value : values) exact += double{value} * double{value};
    EXPECT_NEAR(MeasureFloats(values).sum_squares / exact, 1, 2e-6);
  }
}

TEST_P(StatisticsKernel, ComparesValuesAndNotBits) {
  for (std::size_t size = 0; size < 100; ++size) {
    std::vector<float> a = NormalValues(size, 1, 4);
    std::vector<float> b = a;
    EXPECT_TRUE(EqualFloats(a, b));
    for (std::size_t i = 0; i < size; ++i) {
      a[i] = kNan;
      b[i] = std::bit_cast<float>(0xFFC01234U);
      EXPECT_TRUE(EqualFloats(a, b));
      b[i] = 1;
      EXPECT_FALSE(EqualFloats(a, b)) << i;
      EXPECT_FALSE(EqualFloats(b, a)) << i;
      a[i] = 0.0F;
      b[i] = -0.0F;
      EXPECT_TRUE(EqualFloats(a, b));
      a[i] = kInfinity;
      b[i] = -kInfinity;
      EXPECT_FALSE(EqualFloats(a, b)) << i;
      b[i] = a[i];
    }
  }
}

TEST(FloatStatisticsTest, PartsAddUpToTheWhole) {
  const std::vector<float> values = NormalValues(1000, 1, 2);
  FloatStatistics sum;
  sum.Add(MeasureFloats(std::span(values).first(512)));
  sum.Add(MeasureFloats({}));
  sum.Add(MeasureFloats(std::span(values).subspan(512)));
  const FloatStatistics whole = MeasureFloats(values);
  EXPECT_EQ(sum.values, whole.values);
  EXPECT_EQ(sum.absmax, whole.absmax);
  EXPECT_NEAR(sum.sum_squares, whole.sum_squares, 1e-9 * whole.sum_squares);
  EXPECT_FALSE(sum.constant);

  FloatStatistics constant;
  constant.Add(MeasureFloats(std::vector<float>(3, 2.0F)));
  constant.Add(MeasureFloats(std::vector<float>(5, 2.0F)));
  EXPECT_TRUE(constant.constant);
  constant.Add(MeasureFloats(std::vector<float>(1, -2.0F)));
  EXPECT_FALSE(constant.constant);
  EXPECT_EQ(constant.values, 9U);
}

}  // namespace
}  // namespace dsv3::quant

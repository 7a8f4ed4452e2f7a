#include "quant/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/quant/float_environment.h"

namespace dsv3::quant {
namespace {

std::uint32_t Bits(float value) { return std::bit_cast<std::uint32_t>(value); }
float Float(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// The value that a small format gives to sign, exponent field and mantissa, straight from the
// definition.
double Value(bool negative, int field, int mantissa, int mantissa_bits, int bias) {
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  const double magnitude =
      field == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, field - bias);
  return negative ? -magnitude : magnitude;
}

TEST(DecodeE4M3, EqualsTheDefinitionForEveryCode) {
  for (int code = 0; code < 256; ++code) {
    SCOPED_TRACE(code);
    const float actual = DecodeE4M3(static_cast<std::uint8_t>(code));
    const bool negative = code >= 0x80;
    EXPECT_EQ(std::signbit(actual), negative);
    if ((code & 0x7F) == 0x7F) {
      EXPECT_EQ(Bits(actual), negative ? 0xFFC00000U : 0x7FC00000U);
    } else {
      EXPECT_EQ(actual, Value(negative, (code >> 3) & 15, code & 7, 3, 7));
    }
  }
}

TEST(DecodeE4M3, HasTheLandmarksOfTheSpecification) {
  EXPECT_EQ(DecodeE4M3(0x7E), 448.0F);
  EXPECT_EQ(DecodeE4M3(0x08), 0x1p-6F);
  EXPECT_EQ(DecodeE4M3(0x07), 0.875F * 0x1p-6F);
  EXPECT_EQ(DecodeE4M3(0x01), 0x1p-9F);
  EXPECT_EQ(Bits(DecodeE4M3(0x80)), 0x80000000U);
}

TEST(DecodeE5M2, EqualsTheDefinitionForEveryCode) {
  for (int code = 0; code < 256; ++code) {
    SCOPED_TRACE(code);
    const float actual = DecodeE5M2(static_cast<std::uint8_t>(code));
    const bool negative = code >= 0x80;
    const int field = (code >> 2) & 31;
    EXPECT_EQ(std::signbit(actual), negative);
    if (field == 31) {
      EXPECT_EQ(std::isinf(actual), (code & 3) == 0);
      EXPECT_EQ(std::isnan(actual), (code & 3) != 0);
    } else {
      EXPECT_EQ(actual, Value(negative, field, code & 3, 2, 15));
    }
  }
  EXPECT_EQ(DecodeE5M2(0x7B), 57344.0F);
  EXPECT_EQ(DecodeE5M2(0x01), 0x1p-16F);
}

// Every code has the value of the definition, but that of −0, which is the only NaN.
void ExpectFnuz(float (*decode)(std::uint8_t), int mantissa_bits, int bias) {
  for (int code = 0; code < 256; ++code) {
    SCOPED_TRACE(code);
    const float actual = decode(static_cast<std::uint8_t>(code));
    if (code == 0x80) {
      EXPECT_EQ(Bits(actual), 0x7FC00000U);
      continue;
    }
    const int field = (code & 0x7F) >> mantissa_bits;
    const int mantissa = code & ((1 << mantissa_bits) - 1);
    EXPECT_EQ(actual, Value(code >= 0x80, field, mantissa, mantissa_bits, bias));
    EXPECT_EQ(std::signbit(actual), code >= 0x80);
  }
}

TEST(DecodeE4M3Fnuz, EqualsTheDefinitionForEveryCode) {
  ExpectFnuz(DecodeE4M3Fnuz, 3, 8);
  EXPECT_EQ(DecodeE4M3Fnuz(0x7F), 240.0F);
  EXPECT_EQ(DecodeE4M3Fnuz(0x01), 0x1p-10F);
}

TEST(DecodeE5M2Fnuz, EqualsTheDefinitionForEveryCode) {
  ExpectFnuz(DecodeE5M2Fnuz, 2, 16);
  EXPECT_EQ(DecodeE5M2Fnuz(0x7F), 57344.0F);
  EXPECT_EQ(DecodeE5M2Fnuz(0x01), 0x1p-17F);
}

TEST(DecodeE2M1, EqualsTheDefinitionForEveryCode) {
  for (int code = 0; code < 16; ++code) {
    SCOPED_TRACE(code);
    const float actual = DecodeE2M1(static_cast<std::uint8_t>(code));
    EXPECT_EQ(actual, Value(code >= 8, (code >> 1) & 3, code & 1, 1, 1));
    EXPECT_EQ(std::signbit(actual), code >= 8);
  }
  EXPECT_EQ(DecodeE2M1(0x7), 6.0F);
  EXPECT_EQ(DecodeE2M1(0x9), -0.5F);
}

TEST(DecodeE8M0, IsAPowerOfTwoForEveryCode) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(DecodeE8M0(static_cast<std::uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_TRUE(std::isnan(DecodeE8M0(255)));
}

TEST(DecodeF16, EqualsTheDefinitionForEveryPattern) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float actual = DecodeF16(static_cast<std::uint16_t>(bits));
    const bool negative = bits >= 0x8000;
    const auto field = static_cast<int>((bits >> 10) & 31);
    const auto mantissa = static_cast<int>(bits & 0x3FF);
    ASSERT_EQ(std::signbit(actual), negative) << bits;
    if (field == 31) {
      ASSERT_EQ(Bits(actual) & 0x7FFFFFFFU, 0x7F800000U | (bits & 0x3FF) << 13) << bits;
    } else {
      ASSERT_EQ(actual, Value(negative, field, mantissa, 10, 15)) << bits;
    }
  }
}

TEST(DecodeBF16, EqualsTheDefinitionForEveryPattern) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float actual = DecodeBF16(static_cast<std::uint16_t>(bits));
    const auto field = static_cast<int>((bits >> 7) & 255);
    if (field == 255) {
      ASSERT_EQ(Bits(actual), bits << 16) << bits;  // NaN payloads and infinities
    } else {
      ASSERT_EQ(actual, Value(bits >= 0x8000, field, static_cast<int>(bits & 127), 7, 127)) << bits;
      ASSERT_EQ(std::signbit(actual), bits >= 0x8000) << bits;
    }
  }
}

// A format by its non-negative finite values in code order, from which the nearest one to a float
// is searched: an encoder that shares nothing with the one under test.
class NearestTable {
 public:
  // `overflow` is the value that the code after the last would have.
  NearestTable(std::vector<double> values, double overflow) : values_(std::move(values)) {
    values_.push_back(overflow);
  }

  // The code of the nearest value, of the even code in a tie; values_.size() - 1 is overflow.
  std::uint32_t Nearest(double magnitude) const {
    const auto above = std::upper_bound(values_.begin(), values_.end(), magnitude);
    if (above == values_.end()) return static_cast<std::uint32_t>(values_.size() - 1);
    const auto high = static_cast<std::uint32_t>(above - values_.begin());
    const std::uint32_t low = high - 1;
    // Exact wherever the two are close to equal.
    const double to_low = magnitude - values_[low];
    const double to_high = values_[high] - magnitude;
    if (to_low != to_high) return to_low < to_high ? low : high;
    return low % 2 == 0 ? low : high;
  }

 private:
  std::vector<double> values_;
};

NearestTable MakeTable(std::uint32_t codes, int mantissa_bits, int bias) {
  std::vector<double> values;
  for (std::uint32_t code = 0; code <= codes; ++code) {
    values.push_back(Value(false, static_cast<int>(code >> mantissa_bits),
                           static_cast<int>(code & ((1U << mantissa_bits) - 1)), mantissa_bits,
                           bias));
  }
  const double overflow = values.back();
  values.pop_back();
  return {std::move(values), overflow};
}

// Every value of the format, every midpoint, the floats next to them; all exponents with chosen
// and random mantissas.
std::vector<float> EncoderInputs(const std::vector<float>& values) {
  std::vector<float> inputs;
  const auto add_near = [&inputs](float value) {
    for (const float x : {value, std::nextafter(value, 0.0F), std::nextafter(value, INFINITY)}) {
      inputs.push_back(x);
      inputs.push_back(-x);
    }
  };
  for (std::size_t i = 0; i < values.size(); ++i) {
    add_near(values[i]);
    if (i > 0) add_near(values[i - 1] + (values[i] - values[i - 1]) / 2);
  }
  std::mt19937 random(7);
  for (std::uint32_t field = 0; field < 255; ++field) {
    for (const std::uint32_t mantissa : {0U, 1U, 0x3FFFFFU, 0x400000U, 0x400001U, 0x7FFFFFU}) {
      inputs.push_back(Float(field << 23 | mantissa));
    }
    for (int i = 0; i < 2000; ++i) inputs.push_back(Float(field << 23 | (random() & 0x807FFFFFU)));
  }
  return inputs;
}

TEST(EncodeE4M3, RoundsToTheNearestCodeAndOverflowsToNan) {
  const NearestTable table = MakeTable(0x7F, 3, 7);  // 0x7F would be 480
  std::vector<float> values;
  values.reserve(0x80);
  for (int code = 0; code < 0x7F; ++code) {
    values.push_back(DecodeE4M3(static_cast<std::uint8_t>(code)));
  }
  values.push_back(480.0F);
  for (const float input : EncoderInputs(values)) {
    const std::uint32_t sign = std::signbit(input) ? 0x80 : 0;
    ASSERT_EQ(EncodeE4M3(input), sign | table.Nearest(std::abs(double{input}))) << input;
  }
}

TEST(EncodeE4M3, TreatsTheEdgeOfItsRangeAsTorchDoes) {
  EXPECT_EQ(EncodeE4M3(448.0F), 0x7E);
  EXPECT_EQ(EncodeE4M3(464.0F), 0x7E);  // a tie, and 0x7E is even
  EXPECT_EQ(EncodeE4M3(std::nextafter(464.0F, 1000.0F)), 0x7F);
  EXPECT_EQ(EncodeE4M3(-1e30F), 0xFF);
  EXPECT_EQ(EncodeE4M3(std::numeric_limits<float>::infinity()), 0x7F);
  EXPECT_EQ(EncodeE4M3(Float(0xFF800001U)), 0xFF);
  EXPECT_EQ(EncodeE4M3(-0.0F), 0x80);
  EXPECT_EQ(EncodeE4M3(0x1p-10F), 0x00);  // half of the smallest, a tie to even
  EXPECT_EQ(EncodeE4M3(0x1.8p-9F), 0x02);
}

TEST(EncodeF16, RoundsToTheNearestCodeAndOverflowsToInfinity) {
  const NearestTable table = MakeTable(0x7C00, 10, 15);
  std::vector<float> values;
  for (std::uint32_t code = 0; code < 0x7C00; ++code) {
    values.push_back(DecodeF16(static_cast<std::uint16_t>(code)));
  }
  values.push_back(65536.0F);
  for (const float input : EncoderInputs(values)) {
    const std::uint32_t sign = std::signbit(input) ? 0x8000 : 0;
    ASSERT_EQ(EncodeF16(input), sign | table.Nearest(std::abs(double{input}))) << input;
  }
  EXPECT_EQ(EncodeF16(std::numeric_limits<float>::infinity()), 0x7C00);
  EXPECT_EQ(EncodeF16(Float(0x7FFFFFFFU)), 0x7E00);
  EXPECT_EQ(EncodeF16(Float(0xFF800001U)), 0xFE00);
}

TEST(EncodeBF16, RoundsToTheNearestCodeAndOverflowsToInfinity) {
  const NearestTable table = MakeTable(0x7F80, 7, 127);
  std::vector<float> values;
  for (std::uint32_t code = 0; code < 0x7F80; ++code) {
    values.push_back(DecodeBF16(static_cast<std::uint16_t>(code)));
  }
  for (const float input : EncoderInputs(values)) {
    const std::uint32_t sign = std::signbit(input) ? 0x8000 : 0;
    ASSERT_EQ(EncodeBF16(input), sign | table.Nearest(std::abs(double{input}))) << input;
  }
  EXPECT_EQ(EncodeBF16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(EncodeBF16(-std::numeric_limits<float>::infinity()), 0xFF80);
  EXPECT_EQ(EncodeBF16(Float(0x7F800001U)), 0x7FC0);
  EXPECT_EQ(EncodeBF16(Float(0xFFFFFFFFU)), 0xFFC0);
}

TEST(Encoders, GiveBackEveryCodeThatTheyDecode) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto code = static_cast<std::uint16_t>(bits);
    if ((bits & 0x7FFF) <= 0x7F80) {
      ASSERT_EQ(EncodeBF16(DecodeBF16(code)), code);
    }
    if ((bits & 0x7FFF) <= 0x7C00) {
      ASSERT_EQ(EncodeF16(DecodeF16(code)), code);
    }
  }
  for (std::uint32_t code = 0; code < 256; ++code) {
    EXPECT_EQ(EncodeE4M3(DecodeE4M3(static_cast<std::uint8_t>(code))), code);
  }
}

TEST(Codecs, DoNotDependOnTheFloatingPointEnvironment) {
  for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
    SCOPED_TRACE(static_cast<int>(kind));
    const FloatEnvironment environment(kind);
    EXPECT_EQ(EncodeBF16(Float(0x3F800001U)), 0x3F80);
    EXPECT_EQ(EncodeBF16(Float(0x00010000U)), 0x0001);  // a subnormal
    EXPECT_EQ(EncodeF16(Float(0x3F800001U)), 0x3C00);
    EXPECT_EQ(EncodeF16(Float(0xBF801FFFU)), 0xBC01);
    EXPECT_EQ(EncodeE4M3(Float(0x3F800001U)), 0x38);
    EXPECT_EQ(Bits(DecodeE4M3(0x01)), 0x3B000000U);
    EXPECT_EQ(Bits(DecodeF16(0x0001)), 0x33800000U);
    EXPECT_EQ(Bits(DecodeE8M0(0)), 0x00400000U);
  }
}

}  // namespace
}  // namespace dsv3::quant

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "quant/encode.h"
#include "tests/quant/encode_oracle.h"
#include "tests/quant/float_environment.h"
#include "tests/quant/targets.h"

// The rules whose codes are E2M1 or E4M3 in groups, against their definitions in doubles.
namespace dsv3::quant {
namespace {

enum class Scaling { kCarried, kCeiled, kModelOpt, kLlmCompressor };
enum class Coding { kEven, kDown, kE4M3 };

struct FloatForm {
  const EncodeRule& (*rule)();
  Scaling scaling;
  Coding coding;
  std::uint64_t group;
};

const FloatForm kForms[] = {{ModelOptNvFp4, Scaling::kModelOpt, Coding::kEven, 16},
                            {LlmCompressorNvFp4, Scaling::kLlmCompressor, Coding::kEven, 16},
                            {LlmCompressorMxFp4, Scaling::kCarried, Coding::kEven, 32},
                            {ModelOptMxFp4, Scaling::kCeiled, Coding::kDown, 32},
                            {LlmCompressorMxFp8, Scaling::kCarried, Coding::kE4M3, 32},
                            {ModelOptMxFp8, Scaling::kCeiled, Coding::kE4M3, 32}};

bool IsMx(const FloatForm& form) {
  return form.scaling == Scaling::kCarried || form.scaling == Scaling::kCeiled;
}

double ToE4M3(double value) { return RoundTo(value, 4, -9); }

// The scale as it is stored.
double OracleScale(const FloatForm& form, FloatFormat own, float amax, float tensor_scale) {
  const bool fp4 = form.coding != Coding::kE4M3;
  switch (form.scaling) {
    case Scaling::kCarried: {
      const int least = own == FloatFormat::kF16 ? -14 : -126;
      int exponent = amax == 0 ? least : std::max(std::ilogb(amax), least);
      const double significand = std::ldexp(double{amax}, -exponent);
      const bool is_zero = significand < 0.75;  // of subnormal numbers
      if (significand >= 1.75) ++exponent;
      const int byte = is_zero ? 0 : 127 + exponent - (fp4 ? 2 : 8);
      return std::ldexp(1.0, std::clamp(byte, 0, 254) - 127);
    }
    case Scaling::kCeiled: {
      const double quotient = RoundToFloat(double{amax} / (fp4 ? 6 : 448));
      int exponent = -127;
      while (std::ldexp(1.0, exponent) < quotient) ++exponent;
      return std::ldexp(1.0, exponent);
    }
    case Scaling::kModelOpt: {
      const double six = RoundToFloat(6 * double{tensor_scale});
      const double quotient = RoundToFloat(double{amax} / six);
      return quotient == 0 ? 1 : ToE4M3(std::clamp(quotient, std::ldexp(1.0, -9), 448.0));
    }
    case Scaling::kLlmCompressor:
      break;
  }
  const double sixth = RoundToOwn(own, RoundToFloat(double{amax} / 6));
  const double scale = ToE4M3(std::min(RoundToFloat(double{tensor_scale} * sixth), 448.0));
  return scale == 0 ? 0.125 : scale;
}

double OracleDivisor(const FloatForm& form, double scale, float tensor_scale) {
  if (form.scaling == Scaling::kModelOpt) return RoundToFloat(scale * double{tensor_scale});
  if (form.scaling == Scaling::kLlmCompressor) return RoundToFloat(scale / double{tensor_scale});
  return scale;
}

// The code of the value that is nearest to the quotient.
std::uint8_t OracleCode(const FloatForm& form, FloatFormat own, float value, double divisor) {
  double quotient = RoundToFloat(double{value} / divisor);
  if (form.scaling == Scaling::kCarried) quotient = RoundToOwn(own, quotient);
  const double magnitude = std::min(std::abs(quotient), 448.0);
  if (form.coding == Coding::kE4M3) {
    const double rounded = ToE4M3(std::min(magnitude, 448.0));
    const auto made = EncodeE4M3(static_cast<float>(rounded));  // exact
    return static_cast<std::uint8_t>(made | (std::signbit(quotient) ? 0x80 : 0));
  }
  constexpr double kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  std::uint8_t nearest = 0;
  for (std::uint8_t code = 1; code < 8; ++code) {
    const double before = magnitude - kMagnitudes[nearest];
    const double here = std::abs(kMagnitudes[code] - magnitude);
    const bool takes_tie = form.coding == Coding::kEven && code % 2 == 0;
    if (here < before || (here == before && takes_tie)) nearest = code;
  }
  const bool minus = quotient < 0 || (form.coding == Coding::kDown && quotient == 0);
  return static_cast<std::uint8_t>(nearest | (minus ? 8 : 0));
}

void ExpectFormula(const FloatForm& form, FloatFormat own, const std::vector<float>& row,
                   float tensor_scale) {
  const Encoded made = EncodeMatrix(form.rule(), own, Pack(own, row), 1, row.size(), tensor_scale);
  ASSERT_FALSE(made.nonfinite.has_value());
  ASSERT_EQ(made.codes.size(), row.size());
  for (std::size_t begin = 0; begin < row.size(); begin += form.group) {
    float amax = 0;
    for (std::size_t i = begin; i < begin + form.group; ++i)
      amax = std::max(amax, std::abs(row[i]));
    const double scale = OracleScale(form, own, amax, tensor_scale);
    ASSERT_EQ(double{made.scales[begin / form.group]}, scale) << form.rule().name << ' ' << amax;
    const double divisor = OracleDivisor(form, scale, tensor_scale);
    for (std::size_t i = begin; i < begin + form.group; ++i) {
      ASSERT_EQ(made.codes[i], OracleCode(form, own, row[i], divisor))
          << form.rule().name << ' ' << row[i] << " of " << amax << ' ' << tensor_scale;
    }
  }
}

// Values of either sign up to this one, in groups of 16 that hold it; `step` apart in their bits.
std::vector<float> RowBelow(FloatFormat own, std::uint32_t amax, std::uint32_t step) {
  std::vector<float> row;
  for (std::uint32_t bits = 0; bits <= amax;) {
    row.push_back(FromBits(own, amax) * (row.size() % 32 == 0 ? 1.0F : -1.0F));
    for (int i = 0; i < 15; ++i) {
      const float value = FromBits(own, std::min(bits, amax));
      row.push_back(i % 2 == 0 ? value : -value);
      if (i % 2 != 0) bits += step;
    }
  }
  row.resize((row.size() + 31) / 32 * 32);
  return row;
}

// Scales of tensors: of the rule for an amax, and powers of two, with which quotients are ties.
std::vector<float> TensorScales(const FloatForm& form, FloatFormat own, float amax) {
  if (IsMx(form)) return {1};
  return {form.rule().tensor_scale_of(amax, own), 0x1p-6F, 0x1p3F};
}

std::vector<float> Largest() {
  return {1.7e38F,  1.0F,   1.7421875F, 1.75F,       6.0F,
          6.03125F, 448.0F, 0x1.Cp-14F, 0x1.8p-126F, 0x1.0p-131F};
}

std::uint32_t BitsOf(FloatFormat own, float value) {
  if (own == FloatFormat::kBF16) return EncodeBF16(value);
  if (own == FloatFormat::kF32) return std::bit_cast<std::uint32_t>(value);
  return std::min<std::uint32_t>(EncodeF16(value), MostBits(own));
}

class EncodeFloatsKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, EncodeFloatsKernel, EveryTarget(), TargetName);

TEST_P(EncodeFloatsKernel, EveryBF16ValueHasTheCodeOfTheFormula) {
  const FloatFormat own = FloatFormat::kBF16;
  for (const FloatForm& form : kForms) {
    for (const float amax : Largest()) {
      for (const float tensor_scale : TensorScales(form, own, amax)) {
        ExpectFormula(form, own, RowBelow(own, BitsOf(own, amax), 1), tensor_scale);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(EncodeFloatsKernel, OtherFormatsHaveTheCodesOfTheFormula) {
  for (const FloatFormat own : {FloatFormat::kF16, FloatFormat::kF32}) {
    for (const FloatForm& form : kForms) {
      for (const float amax : Largest()) {
        const std::uint32_t bits = BitsOf(own, amax);
        const float is = FromBits(own, bits);
        for (const float tensor_scale : TensorScales(form, own, is)) {
          ExpectFormula(form, own, RowBelow(own, bits, bits / 2000 + 1), tensor_scale);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Quotients at, just below and just above every border between two codes.
TEST_P(EncodeFloatsKernel, TiesGoWhereTheToolsPutThem) {
  for (const FloatForm& form : kForms) {
    std::vector<double> borders = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 6.5, 7};
    if (form.coding == Coding::kE4M3) {
      borders.clear();
      for (unsigned code = 0; code < 0x7E; ++code) {
        const auto at = static_cast<std::uint8_t>(code);
        borders.push_back(
            (double{DecodeE4M3(at)} + double{DecodeE4M3(static_cast<std::uint8_t>(code + 1))}) / 2);
      }
    }
    for (const int exponent : {-20, -3, 0, 9}) {
      std::vector<float> row;
      for (const double border : borders) {
        const auto tie = static_cast<float>(std::ldexp(border, exponent));
        for (const float value : {tie, std::nextafter(tie, 0.0F), std::nextafter(tie, 1e30F)}) {
          if (row.size() % form.group == 0) {
            // The group's scale is 2^exponent.
            row.push_back(static_cast<float>(
                std::ldexp(form.coding == Coding::kE4M3 ? 448.0 : 6.0, exponent)));
          }
          row.push_back(value);
          if (row.size() % form.group == 0) {
            row.push_back(row[row.size() - form.group]);
          }
          row.push_back(-value);
        }
      }
      row.resize((row.size() + form.group - 1) / form.group * form.group);
      for (const float tensor_scale : TensorScales(form, FloatFormat::kF32, row[0])) {
        ExpectFormula(form, FloatFormat::kF32, row, tensor_scale);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(EncodeFloatsKernel, EveryShapeIsTheScalarsInEveryEnvironment) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02F);
  for (const FloatForm& form : kForms) {
    const EncodeRule& rule = form.rule();
    for (const FloatFormat own : kAllFloatFormats) {
      for (const std::uint64_t cols : {32U, 96U, 416U}) {
        constexpr std::uint64_t kRows = 3;
        std::vector<float> floats(kRows * cols);
        for (float& value : floats) {
          value = random() % 50 == 0 ? -0.0F : DecodeBF16(EncodeBF16(normal(random)));
        }
        const auto values = Pack(own, floats);
        const float tensor_scale = IsMx(form) ? 1 : rule.tensor_scale_of(0.09F, own);
        const Encoded expected = EncodeMatrix(rule, own, values, kRows, cols, tensor_scale, true);
        const Encoded made = EncodeMatrix(rule, own, values, kRows, cols, tensor_scale);
        EXPECT_TRUE(made.codes == expected.codes);
        EXPECT_TRUE(made.scale_bytes == expected.scale_bytes);
        for (const FloatEnvironment::Kind kind : FloatEnvironment::kAll) {
          const FloatEnvironment environment(kind);
          const Encoded again = EncodeMatrix(rule, own, values, kRows, cols, tensor_scale);
          ASSERT_TRUE(again.codes == expected.codes);
          ASSERT_TRUE(again.scale_bytes == expected.scale_bytes);
        }
      }
    }
  }
}

TEST(EncodeFloats, EveryLargestMagnitudeHasTheScaleOfTheFormula) {
  for (const FloatFormat own : {FloatFormat::kBF16, FloatFormat::kF16}) {
    for (const FloatForm& form : kForms) {
      const float tensor_scale = IsMx(form) ? 1 : form.rule().tensor_scale_of(3.1F, own);
      for (std::uint32_t bits = 0; bits <= MostBits(own); ++bits) {
        const float amax = FromBits(own, bits);
        if (!IsMx(form) && amax > 3.1F) break;
        const double scale = OracleScale(form, own, amax, tensor_scale);
        ASSERT_EQ(double{form.rule().scale_of(amax, own, tensor_scale).divisor},
                  OracleDivisor(form, scale, tensor_scale))
            << form.rule().name << ' ' << amax;
      }
    }
  }
}

TEST(EncodeFloats, EveryTensorScaleIsThatOfTheFormula) {
  for (const FloatFormat own : {FloatFormat::kBF16, FloatFormat::kF16}) {
    for (std::uint32_t bits = 0; bits <= MostBits(own); ++bits) {
      const float amax = FromBits(own, bits);
      const double quotient = RoundToFloat(double{amax} / 2688);
      ASSERT_EQ(double{ModelOptNvFp4().tensor_scale_of(amax, own)}, quotient == 0 ? 1 : quotient);
      double global = 1;
      if (amax != 0) {
        const double most = own == FloatFormat::kF16 ? 65519.99 : 0x1.FEFFp127;
        const double reciprocal = RoundToOwn(own, RoundToFloat(1 / double{amax}));
        const double divided = 2688 * reciprocal;
        if (divided <= most) global = RoundToOwn(own, RoundToFloat(divided));
      }
      ASSERT_EQ(double{LlmCompressorNvFp4().tensor_scale_of(amax, own)}, global) << amax;
    }
  }
}

TEST(EncodeFloats, ZerosHaveTheScalesAndCodesOfTheTools) {
  std::vector<float> values(64, 0.0F);
  for (std::size_t i = 0; i < values.size(); i += 2) values[i] = -0.0F;
  values[63] = -0x1p-126F;  // a value beside zeros, in the last group
  const auto bytes = Pack(FloatFormat::kBF16, values);
  const auto encode = [&](const EncodeRule& rule) {
    return EncodeMatrix(rule, FloatFormat::kBF16, bytes, 1, 64, 1);
  };
  const Encoded modelopt = encode(ModelOptNvFp4());
  EXPECT_EQ(modelopt.scales, (std::vector<float>{1, 1, 1, 0x1p-9F}));
  EXPECT_EQ(modelopt.codes[0], 0);
  EXPECT_EQ(modelopt.codes[1], 0);
  EXPECT_EQ(modelopt.codes[63], 8);  // it becomes −0
  const Encoded llm = encode(LlmCompressorNvFp4());
  EXPECT_EQ(llm.scales, (std::vector<float>{0.125F, 0.125F, 0.125F, 0.125F}));
  EXPECT_EQ(llm.codes[0], 0);
  EXPECT_EQ(llm.codes[63], 8);
  const Encoded carried = encode(LlmCompressorMxFp4());
  EXPECT_EQ(carried.scales, (std::vector<float>{0x1p-127F, 0x1p-127F}));
  EXPECT_EQ(carried.codes[0], 0);
  EXPECT_EQ(carried.codes[63], 8 | 4);  // 2 × 2^-127
  const Encoded down = encode(ModelOptMxFp4());
  EXPECT_EQ(down.scales, (std::vector<float>{0x1p-127F, 0x1p-127F}));
  EXPECT_EQ(down.codes[0], 8);
  EXPECT_EQ(down.codes[1], 8);
  const Encoded fp8 = encode(LlmCompressorMxFp8());
  EXPECT_EQ(fp8.scales, (std::vector<float>{0x1p-127F, 0x1p-127F}));
  EXPECT_EQ(fp8.codes[0], 0x80);
  EXPECT_EQ(fp8.codes[1], 0);
}

}  // namespace
}  // namespace dsv3::quant

// Codes times scales as floats, on every instruction set.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "quant/codes.h"
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

constexpr CodeFormat kAll[] = {CodeFormat::kE4M3,     CodeFormat::kE5M2, CodeFormat::kI8,
                               CodeFormat::kI4Offset, CodeFormat::kI4,   CodeFormat::kE2M1};

// A number with a sign, an exponent and a mantissa, by the definition of such formats.
double FloatOf(unsigned code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const unsigned field = code >> mantissa_bits & ((1U << exponent_bits) - 1);
  const unsigned mantissa = code & ((1U << mantissa_bits) - 1);
  const double sign = (code >> (exponent_bits + mantissa_bits) & 1U) != 0 ? -1 : 1;
  const double significand = mantissa + (field == 0 ? 0 : 1U << mantissa_bits);
  const int exponent = field == 0 ? 1 : static_cast<int>(field);
  return sign * std::ldexp(significand, exponent - bias - mantissa_bits);
}

double ValueOf(CodeFormat format, unsigned code) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  switch (format) {
    case CodeFormat::kE4M3:
      return (code & 0x7FU) == 0x7F ? kNan : FloatOf(code, 4, 3);
    case CodeFormat::kE5M2:
      if ((code & 0x7FU) > 0x7C) return kNan;
      if ((code & 0x7FU) == 0x7C) return (code < 0x80 ? 1 : -1) * HUGE_VAL;
      return FloatOf(code, 5, 2);
    case CodeFormat::kI8:
      return code < 128 ? code : static_cast<double>(code) - 256;
    case CodeFormat::kI4:
      return code < 8 ? code : static_cast<double>(code) - 16;
    case CodeFormat::kI4Offset:
      return static_cast<double>(code) - 8;
    case CodeFormat::kE2M1:
      return FloatOf(code, 2, 1);
  }
  return 0;
}

// The one rounding of the exact product; zeros with their sign.
float Expected(CodeFormat format, unsigned code, float zero, float scale) {
  return static_cast<float>((ValueOf(format, code) - zero) * scale);
}

unsigned CodeOf(CodeFormat format, const std::vector<std::uint8_t>& codes, std::size_t i) {
  if (CodeBits(format) == 8) return codes[i];
  return i % 2 == 0 ? codes[i / 2] & 0xFU : codes[i / 2] >> 4U;
}

void ExpectEqual(float actual, float expected, const char* what, std::size_t at) {
  if (std::isnan(expected)) {
    ASSERT_TRUE(std::isnan(actual)) << what << " " << at;
    return;
  }
  ASSERT_EQ(std::bit_cast<std::uint32_t>(actual), std::bit_cast<std::uint32_t>(expected))
      << what << " " << at;
}

class CodeFloats : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, CodeFloats, EveryTarget(), TargetName);

TEST_P(CodeFloats, EveryCode) {
  constexpr std::size_t kElements = 512;
  for (const CodeFormat format : kAll) {
    std::vector<std::uint8_t> codes(kElements * CodeBits(format) / 8);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
    for (const float scale : {1.0F, 0.3F, 0x1.8p-130F, 0x1p-149F, 3e38F, 0.0F, -2.5F}) {
      for (const float zero : {0.0F, -8.0F, 3.0F}) {
        const std::vector<float> scales = {scale};
        const std::vector<float> zeros = {zero};
        DequantizeSpan span;
        span.codes = codes;
        span.cols = kElements;
        span.block = {1, kElements};
        span.scales = scales;
        if (zero != 0) span.zeros = zeros;
        std::vector<float> out(kElements);
        DequantizeToFloat(format, span, out.data());
        for (std::size_t i = 0; i < kElements; ++i) {
          ExpectEqual(out[i], Expected(format, CodeOf(format, codes, i), zero, scale), "element",
                      i);
        }
      }
    }
  }
}

TEST_P(CodeFloats, EveryPartOfAMatrix) {
  for (const CodeFormat format : kAll) {
    const bool halves = CodeBits(format) == 4;
    for (const BlockShape block : {BlockShape{1, 16}, BlockShape{1, 32}, BlockShape{3, 10},
                                   BlockShape{2, 7}, BlockShape{128, 128}}) {
      for (const std::uint64_t cols : {2U, 30U, 160U, 386U}) {
        for (const std::uint64_t first : {0U, 2U, 46U}) {
          for (const std::uint64_t count : {2U, 14U, 700U}) {
            const std::uint64_t elements = halves ? count : count + 1;
            const std::uint64_t per_row = (cols - 1) / block.cols + 1;
            const std::uint64_t first_row = first / cols / block.rows;
            const std::uint64_t rows = (first + elements - 1) / cols / block.rows - first_row + 1;
            std::vector<float> scales(per_row * rows);
            std::vector<float> zeros(scales.size());
            for (std::size_t i = 0; i < scales.size(); ++i) {
              scales[i] = static_cast<float>(i * 37 % 101 + 1) / 77.0F;
              zeros[i] = static_cast<float>(i % 5);
            }
            std::vector<std::uint8_t> codes(elements * CodeBits(format) / 8);
            for (std::size_t i = 0; i < codes.size(); ++i) {
              codes[i] = static_cast<std::uint8_t>(i * 151 + first);
            }
            DequantizeSpan span;
            span.codes = codes;
            span.first = first;
            span.cols = cols;
            span.block = block;
            span.scales = scales;
            span.zeros = zeros;
            std::vector<float> out(elements + 1, 7.5F);
            DequantizeToFloat(format, span, out.data());
            for (std::uint64_t i = 0; i < elements; ++i) {
              const std::uint64_t row = (first + i) / cols;
              const std::uint64_t at =
                  (row / block.rows - first_row) * per_row + (first + i) % cols / block.cols;
              ExpectEqual(out[i], Expected(format, CodeOf(format, codes, i), zeros[at], scales[at]),
                          "element", i);
            }
            ASSERT_EQ(out[elements], 7.5F);  // nothing behind them
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsv3::quant

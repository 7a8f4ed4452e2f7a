#include "quant/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/codec.h"
#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

class MatmulKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, MatmulKernel, EveryTarget(), TargetName);

// Whether the instruction set in use has fused multiply-add.
bool FusesProducts() {
  std::vector<float> a(17);
  std::vector<float> b(17);
  a[0] = 1;
  b[0] = -(1 + 0x1p-11F);
  a[16] = b[16] = 1 + 0x1p-12F;
  return Dot(a.data(), b.data(), a.size()) != 0;
}

// DotScalar, with products rounded where the instruction set does so.
float Expected(std::span<const float> a, std::span<const float> b) {
  if (FusesProducts()) return DotScalar(a.data(), b.data(), a.size());
  std::vector<float> lanes(16);
  for (std::size_t k = 0; k < a.size(); ++k) {
    const volatile float product = a[k] * b[k];
    lanes[k % 16] = lanes[k % 16] + product;
  }
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// A product whose arrays end where its data ends, so that a sanitizer sees a read beyond.
struct Case {
  Case(std::size_t row_count, std::size_t col_count, std::size_t token_count, std::size_t gap)
      : rows(row_count),
        cols(col_count),
        tokens(token_count),
        x_stride(col_count + gap),
        out_stride(row_count + gap),
        weights(rows * cols),
        bf16(rows * cols),
        x(tokens == 0 ? 0 : (tokens - 1) * x_stride + cols) {
    std::mt19937 random(static_cast<unsigned>(rows * 131 + cols * 17 + tokens));
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      bf16[i] = EncodeBF16(normal(random));
      weights[i] = DecodeBF16(bf16[i]);
    }
    for (float& value : x) value = normal(random);
  }

  Activations Tokens() const { return {.values = x.data(), .tokens = tokens, .stride = x_stride}; }

  // Untouched elements of the result are 7.
  std::vector<float> ExpectedOut() const {
    std::vector<float> out(tokens * out_stride, 7);
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t r = 0; r < rows; ++r) {
        out[t * out_stride + r] = Expected(std::span(weights).subspan(r * cols, cols),
                                           std::span(x).subspan(t * x_stride, cols));
      }
    }
    return out;
  }

  void ExpectEqual() const {
    const std::vector<float> expected = ExpectedOut();
    std::vector<float> out(expected.size(), 7);
    MultiplyBF16(bf16.data(), rows, cols, Tokens(), out.data(), out_stride);
    EXPECT_EQ(out, expected) << "BF16, " << rows << " x " << cols << " by " << tokens;
    std::ranges::fill(out, 7.0F);
    MultiplyF32(weights.data(), rows, cols, Tokens(), out.data(), out_stride);
    EXPECT_EQ(out, expected) << "F32, " << rows << " x " << cols << " by " << tokens;
  }

  std::size_t rows;
  std::size_t cols;
  std::size_t tokens;
  std::size_t x_stride;
  std::size_t out_stride;
  std::vector<float> weights;
  std::vector<std::uint16_t> bf16;
  std::vector<float> x;
};

TEST_P(MatmulKernel, EqualsTheScalarDefinitionAroundEveryTile) {
  for (std::size_t tokens = 0; tokens <= 13; ++tokens) {
    for (const std::size_t rows : {0U, 1U, 2U, 3U, 4U, 5U, 7U, 8U, 9U, 17U}) {
      for (const std::size_t cols : {1U, 15U, 16U, 17U, 33U, 95U, 256U}) {
        Case(rows, cols, tokens, rows % 3).ExpectEqual();
      }
    }
  }
}

// Single tokens take long rows in another way.
TEST_P(MatmulKernel, EqualsTheScalarDefinitionOverLongRows) {
  for (std::size_t rows = 1; rows < 18; ++rows) Case(rows, 2051, 1, 0).ExpectEqual();
}

// Rows make several panels: of many tiles, and of one each where a row alone is larger than a
// panel.
TEST_P(MatmulKernel, EqualsTheScalarDefinitionOverPanelsOfRows) {
  Case(70, 2051, 7, 1).ExpectEqual();
  Case(5, 20001, 15, 1).ExpectEqual();
  Case(5, 70001, 8, 1).ExpectEqual();
}

TEST_P(MatmulKernel, GivesZeroWithoutColumns) {
  const Case empty(3, 0, 2, 0);
  std::vector<float> out(6, 7);
  MultiplyBF16(empty.bf16.data(), 3, 0, empty.Tokens(), out.data(), 3);
  EXPECT_THAT(out, testing::Each(0.0F));
}

TEST_P(MatmulKernel, TakesWeightsAtEveryElement) {
  for (std::size_t shift = 1; shift < 16; ++shift) {
    const Case plain(9, 50, 7, 0);
    std::vector<std::uint16_t> bf16(plain.bf16.size() + shift);
    std::ranges::copy(plain.bf16, bf16.begin() + static_cast<std::ptrdiff_t>(shift));
    std::vector<float> x(plain.x.size() + shift);
    std::ranges::copy(plain.x, x.begin() + static_cast<std::ptrdiff_t>(shift));
    std::vector<float> out(63);
    MultiplyBF16(bf16.data() + shift, 9, 50,
                 {.values = x.data() + shift, .tokens = 7, .stride = 50}, out.data(), 9);
    EXPECT_EQ(out, plain.ExpectedOut()) << shift;
  }
}

// A row and a token by themselves have the bits that they have among others, also where a tiny
// product rounds to −0.
TEST_P(MatmulKernel, GivesARowAndATokenTheSameBitsAlone) {
  Case whole(13, 203, 11, 0);
  whole.x[0] = -1e-30F;
  whole.bf16[0] = EncodeBF16(1e-30F);
  std::vector<float> out(13 * 11);
  MultiplyBF16(whole.bf16.data(), 13, 203, whole.Tokens(), out.data(), 13);
  for (std::size_t t = 0; t < 11; ++t) {
    for (std::size_t r = 0; r < 13; ++r) {
      float alone = 7;
      MultiplyBF16(whole.bf16.data() + r * 203, 1, 203,
                   {.values = whole.x.data() + t * 203, .tokens = 1, .stride = 203}, &alone, 1);
      EXPECT_EQ(std::memcmp(&alone, &out[t * 13 + r], sizeof alone), 0) << t << ' ' << r;
    }
  }
}

TEST_P(MatmulKernel, SpreadsWhatIsNotFiniteOverItsOwnResultsOnly) {
  Case poisoned(9, 40, 7, 0);
  poisoned.bf16[4 * 40 + 39] = 0x7FC0;
  poisoned.x[2 * 40 + 3] = std::numeric_limits<float>::infinity();
  std::vector<float> out(63);
  MultiplyBF16(poisoned.bf16.data(), 9, 40, poisoned.Tokens(), out.data(), 9);
  for (std::size_t t = 0; t < 7; ++t) {
    for (std::size_t r = 0; r < 9; ++r) {
      EXPECT_EQ(std::isnan(out[t * 9 + r]), r == 4) << t << ' ' << r;
      EXPECT_EQ(std::isinf(out[t * 9 + r]), t == 2 && r != 4) << t << ' ' << r;
    }
  }
}

TEST_P(MatmulKernel, AddsScaled) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const bool fused = FusesProducts();
  for (std::size_t n = 0; n < 70; ++n) {
    std::vector<float> x(n);
    std::vector<float> out(n);
    std::vector<float> expected(n);
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = normal(random);
      out[i] = normal(random);
      const volatile float product = 0.3F * x[i];
      expected[i] = fused ? std::fma(0.3F, x[i], out[i]) : product + out[i];
    }
    AddScaled(0.3F, x.data(), out.data(), n);
    EXPECT_EQ(out, expected) << n;
  }
}

TEST_P(MatmulKernel, AddsScaledRowsInTheirOrder) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (std::size_t n = 0; n < 300; n += 1 + n / 9) {
    for (std::size_t rows = 0; rows < 4; ++rows) {
      const std::size_t stride = n + rows;
      std::vector<float> factors(rows);
      // Ends where its data ends.
      std::vector<float> x(rows == 0 ? 0 : (rows - 1) * stride + n);
      std::vector<float> out(n);
      for (auto* const values : {&factors, &x, &out}) {
        for (float& value : *values) value = normal(random);
      }
      std::vector<float> expected = out;
      for (std::size_t r = 0; r < rows; ++r) {
        AddScaled(factors[r], x.data() + r * stride, expected.data(), n);
      }
      AddScaledRows(factors.data(), rows, x.data(), stride, out.data(), n);
      EXPECT_EQ(out, expected) << rows << " rows of " << n;
    }
  }
}

// Lane 0 holds elements 0 and 16; the tree adds lanes 0 and 8 first, then 4, then 2, then 1.
TEST(MatmulTest, AddsInTheOrderOfTheHeader) {
  const std::vector<float> ones(17, 1.0F);
  std::vector<float> a(17);
  a[0] = 0x1p24F;
  a[8] = -0x1p24F;
  a[1] = 1;
  EXPECT_EQ(DotScalar(a.data(), ones.data(), 17), 1);
  a[16] = 1;  // is lost in its lane
  EXPECT_EQ(DotScalar(a.data(), ones.data(), 17), 1);
  a[8] = 0;
  a[4] = -0x1p24F;
  a[12] = 1;  // meets lane 4 first
  EXPECT_EQ(DotScalar(a.data(), ones.data(), 17), 2);
}

}  // namespace
}  // namespace dsv3::quant

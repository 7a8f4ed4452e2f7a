#include "convert/forward/attend.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::testing {
namespace {

using convert::HeadMemory;
using convert::HeadQueries;

// Rows at the last positions of a sequence, whose matrices have gaps.
class AttendTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kPositions = 21;
  static constexpr std::size_t kRows = 6;
  static constexpr std::size_t kKey = 24;
  static constexpr std::size_t kRope = 8;
  static constexpr std::size_t kValue = 20;
  static constexpr std::size_t kStride = kKey + kValue + 3;

  void SetUp() override {
    std::mt19937 random(4);
    std::normal_distribution<float> normal;
    for (auto* const values : {&keys_values_, &rope_keys_, &queries_, &rope_queries_}) {
      for (float& value : *values) value = normal(random);
    }
  }

  HeadMemory Memory() const {
    return {keys_values_.data(),        kStride, kKey,  rope_keys_.data(), kRope,
            keys_values_.data() + kKey, kStride, kValue};
  }

  // The results of rows [begin, end).
  std::vector<float> Run(std::size_t begin, std::size_t end,
                         const std::vector<std::vector<std::uint32_t>>& chosen = {}) const {
    std::vector<float> out((end - begin) * kValue, 7);
    HeadQueries rows;
    rows.queries = queries_.data() + begin * kKey;
    rows.query_stride = kKey;
    rows.rope_queries = rope_queries_.data() + begin * kRope;
    rows.rope_stride = kRope;
    rows.count = end - begin;
    rows.position = kPositions - kRows + begin;
    rows.chosen = chosen.empty() ? nullptr : chosen.data();
    rows.scale = 0.2F;
    rows.out = out.data();
    rows.out_stride = kValue;
    Attend(rows, Memory());
    return out;
  }

  std::vector<float> keys_values_ = std::vector<float>(kPositions * kStride);
  std::vector<float> rope_keys_ = std::vector<float>(kPositions * kRope);
  std::vector<float> queries_ = std::vector<float>(kRows * kKey);
  std::vector<float> rope_queries_ = std::vector<float>(kRows * kRope);
};

TEST_F(AttendTest, IsTheWeightedSumOfTheValues) {
  const std::vector<float> out = Run(0, kRows);
  for (std::size_t r = 0; r < kRows; ++r) {
    std::vector<double> weights(kPositions - kRows + r + 1);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      double score = 0;
      for (std::size_t k = 0; k < kKey; ++k) {
        score += static_cast<double>(queries_[r * kKey + k]) * keys_values_[i * kStride + k];
      }
      for (std::size_t k = 0; k < kRope; ++k) {
        score += static_cast<double>(rope_queries_[r * kRope + k]) * rope_keys_[i * kRope + k];
      }
      weights[i] = std::exp(score * 0.2);
    }
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::size_t k = 0; k < kValue; ++k) {
      double expected = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        expected += weights[i] / sum * keys_values_[i * kStride + kKey + k];
      }
      EXPECT_NEAR(out[r * kValue + k], expected, 1e-5) << r << ' ' << k;
    }
  }
}

TEST_F(AttendTest, ARowHasTheSameBitsAlone) {
  const std::vector<float> all = Run(0, kRows);
  for (std::size_t r = 0; r < kRows; ++r) {
    const std::vector<float> alone = Run(r, r + 1);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.data() + r * kValue)) << r;
  }
}

TEST_F(AttendTest, ChosenPositionsThatAreAllGiveTheSameBits) {
  std::vector<std::vector<std::uint32_t>> chosen(kRows);
  // Rows 1 and 4 attend to all without a list.
  for (const std::size_t r : {0U, 2U, 3U, 5U}) {
    chosen[r].resize(kPositions - kRows + r + 1);
    std::iota(chosen[r].begin(), chosen[r].end(), 0U);
  }
  EXPECT_EQ(Run(0, kRows, chosen), Run(0, kRows));
  chosen[2].pop_back();
  EXPECT_NE(Run(0, kRows, chosen), Run(0, kRows));
}

}  // namespace
}  // namespace dsv3::testing

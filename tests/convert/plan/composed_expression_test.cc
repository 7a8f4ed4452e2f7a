#include "convert/plan/composed_expression.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "convert/plan/dequantize_expression.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::MemorySource;
using testing::TinyCheckpoint;

// An FP8 weight whose columns two ranks hold, and its scales, as they are in one file.
TEST(ComposedExpressionTest, IsTheValueOfWhatTheOriginsMakeInAnyPieces) {
  constexpr std::uint64_t kRows = 37;
  constexpr std::uint64_t kLeft = 20;
  constexpr std::uint64_t kCols = 41;
  TinyCheckpoint stored;
  stored.Add("a", "left", Dtype::kF8E4M3, {kRows, kLeft});
  stored.Add("a", "right", Dtype::kF8E4M3, {kRows, kCols - kLeft});
  stored.AddScale("a", "scale", Dtype::kF32, {5, 6});
  TinyCheckpoint model;
  model.Add("m", "w", Dtype::kF8E4M3, {kRows, kCols});
  model.AddScale("m", "scale", Dtype::kF32, {5, 6});
  std::string& whole = model.tensors[0].bytes;
  for (std::uint64_t row = 0; row < kRows; ++row) {
    whole.replace(row * kCols, kLeft, stored.tensors[0].bytes, row * kLeft, kLeft);
    whole.replace(row * kCols + kLeft, kCols - kLeft, stored.tensors[1].bytes,
                  row * (kCols - kLeft), kCols - kLeft);
  }
  model.tensors[1].bytes = stored.tensors[2].bytes;

  const MemorySource of_model(model);
  const MemorySource of_stored(stored);
  const ExpressionPtr value =
      Dequantize(of_model.catalog(), testing::MatrixPair(of_model.catalog(), 0, 1, {8, 8}));
  EvaluationCounts expected_counts;
  const std::string expected = of_model.Evaluate(*value, expected_counts);
  const ExpressionPtr composed = Compose(value, [&](std::uint32_t tensor) {
    if (tensor == 1) return Copy(of_stored.catalog(), 2);
    return Assemble(of_stored.catalog(), "w", Dtype::kF8E4M3, {kRows, kCols},
                    {{{0, kRows, 0, kLeft}, 0, 0, 0}, {{0, kRows, kLeft, kCols}, 1, 0, 0}});
  });
  EXPECT_EQ(composed->rule(), "dequantize");
  EXPECT_EQ(composed->streamed_sources(), (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(composed->side_sources(), (std::vector<std::uint32_t>{2}));
  std::mt19937 random(3);
  testing::ExpectInAnyPieces(of_stored, *composed, expected, random);
  EvaluationCounts counts;
  of_stored.Evaluate(*composed, counts);
  EXPECT_EQ(counts.nan_codes, expected_counts.nan_codes);
  EXPECT_GT(counts.nan_codes, 0U);
}

// A job continues only where the tensors were made in the same way.
TEST(ComposedExpressionTest, SaysHowItsSourcesAreMade) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("m", "w", Dtype::kF8E4M3, {4, 4});
  checkpoint.AddScale("m", "scale", Dtype::kF32, {1, 1});
  const MemorySource source(checkpoint);
  const Catalog& catalog = source.catalog();
  const ExpressionPtr value = Dequantize(catalog, testing::MatrixPair(catalog, 0, 1, {8, 8}));
  const auto copy = [&](std::uint32_t tensor) { return Copy(catalog, tensor); };
  const auto transposed = [&](std::uint32_t tensor) {
    if (tensor == 1) return Copy(catalog, tensor);
    return Assemble(catalog, "w", Dtype::kF8E4M3, {4, 4}, {{{0, 4, 0, 4}, 0, 0, 0, 1, 4}});
  };
  EXPECT_NE(Compose(value, copy)->parameters(), Compose(value, transposed)->parameters());
}

}  // namespace
}  // namespace dsv3::convert

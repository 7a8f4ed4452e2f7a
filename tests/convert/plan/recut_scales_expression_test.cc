#include "convert/plan/recut_scales_expression.h"

#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/panel_expression.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using testing::MemorySource;
using testing::TinyCheckpoint;

std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

struct Case {
  std::uint64_t rows;
  std::uint64_t cols;
  quant::BlockShape from;
  quant::BlockShape to;
};

// The scale of the old grid for the first element of each new block.
std::string Expected(const Case& one, const std::string& scales, std::uint64_t bytes) {
  std::string recut;
  const std::uint64_t from_cols = CeilDiv(one.cols, one.from.cols);
  for (std::uint64_t row = 0; row < one.rows; row += one.to.rows) {
    for (std::uint64_t col = 0; col < one.cols; col += one.to.cols) {
      recut +=
          scales.substr((row / one.from.rows * from_cols + col / one.from.cols) * bytes, bytes);
    }
  }
  return recut;
}

constexpr Case kCases[] = {{300, 260, {128, 128}, {64, 64}},   {300, 260, {64, 64}, {128, 128}},
                           {300, 260, {128, 128}, {128, 128}}, {129, 1, {128, 128}, {32, 32}},
                           {1, 129, {32, 32}, {128, 128}},     {37, 41, {4, 8}, {8, 2}},
                           {37, 41, {12, 3}, {4, 9}},          {40, 40, {8, 8}, {1, 1}},
                           {40, 40, {1, 1}, {8, 8}},           {24, 100, {1, 100}, {2, 50}}};

TEST(RecutScalesTest, GivesEachNewBlockTheScaleOfItsFirstElementInAnyPieces) {
  std::mt19937 random(3);
  for (const Case& one : kCases) {
    for (const Dtype dtype : {Dtype::kF8E8M0, Dtype::kBF16, Dtype::kF32}) {
      TinyCheckpoint checkpoint;
      checkpoint.Add("s", "scale", dtype,
                     {CeilDiv(one.rows, one.from.rows), CeilDiv(one.cols, one.from.cols)});
      const MemorySource source(checkpoint);
      const ExpressionPtr recut =
          RecutScales(Copy(source.catalog(), 0), one.rows, one.cols, one.from, one.to);
      EXPECT_EQ(recut->dtype(), dtype);
      EXPECT_EQ(recut->shape(),
                (formats::Shape{CeilDiv(one.rows, one.to.rows), CeilDiv(one.cols, one.to.cols)}));
      testing::ExpectInAnyPieces(
          source, *recut, Expected(one, checkpoint.tensors[0].bytes, formats::DtypeBits(dtype) / 8),
          random);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(RecutScalesTest, ReadsEachByteOfTheScalesOnceAndInOrder) {
  for (const Case& one : kCases) {
    TinyCheckpoint checkpoint;
    checkpoint.Add("s", "scale", Dtype::kF32,
                   {CeilDiv(one.rows, one.from.rows), CeilDiv(one.cols, one.from.cols)});
    const MemorySource source(checkpoint);
    const ExpressionPtr recut =
        RecutScales(Copy(source.catalog(), 0), one.rows, one.cols, one.from, one.to);
    EXPECT_TRUE(recut->streams_whole_source());
    std::uint64_t read_to = 0;
    for (std::uint64_t at = 0; at < recut->num_bytes(); at = recut->CutAfter(at)) {
      std::vector<SourceRange> reads;
      recut->AppendReads(at, recut->CutAfter(at), reads);
      ASSERT_EQ(reads.size(), 1U);
      EXPECT_EQ(reads[0].begin, read_to);
      read_to = reads[0].end;
    }
    EXPECT_EQ(read_to, checkpoint.tensors[0].bytes.size());
  }
}

TEST(RecutScalesTest, TakesScalesThatArePutTogether) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "left", Dtype::kF32, {6, 2});
  checkpoint.Add("s", "right", Dtype::kF32, {6, 1});
  const MemorySource source(checkpoint);
  const ExpressionPtr whole = Assemble(source.catalog(), "scale", Dtype::kF32, {6, 3},
                                       {{{0, 6, 0, 2}, 0, 0, 0}, {{0, 6, 2, 3}, 1, 0, 0}});
  const Case one = {24, 12, {4, 4}, {8, 2}};
  const ExpressionPtr recut = RecutScales(whole, one.rows, one.cols, one.from, one.to);
  EXPECT_EQ(recut->rule(), "recut-scales");
  EXPECT_THAT(recut->streamed_sources(), ElementsAre(0, 1));
  EXPECT_FALSE(recut->streams_whole_source());
  EvaluationCounts counts;
  std::mt19937 random(5);
  testing::ExpectInAnyPieces(source, *recut, Expected(one, source.Evaluate(*whole, counts), 4),
                             random);
}

TEST(RecutScalesTest, TellsBlocksAndWhatItIsMadeOf) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "scale", Dtype::kF32, {2, 2});
  checkpoint.Add("s", "top", Dtype::kF32, {1, 2});
  checkpoint.Add("s", "bottom", Dtype::kF32, {1, 2});
  const MemorySource source(checkpoint);
  const ExpressionPtr copy = Copy(source.catalog(), 0);
  const auto parameters = [](const ExpressionPtr& scales, quant::BlockShape to) {
    return RecutScales(scales, 256, 256, {128, 128}, to)->parameters();
  };
  const auto put_together = [&](std::uint32_t first, std::uint32_t second) {
    return Assemble(source.catalog(), "scale", Dtype::kF32, {2, 2},
                    {{{first, first + 1, 0, 2}, 1, 0, 0}, {{second, second + 1, 0, 2}, 2, 0, 0}});
  };
  EXPECT_NE(parameters(copy, {64, 64}), parameters(copy, {64, 32}));
  EXPECT_NE(parameters(copy, {64, 64}), parameters(copy, {256, 64}));
  EXPECT_NE(parameters(copy, {64, 64}), parameters(put_together(0, 1), {64, 64}));
  EXPECT_EQ(parameters(put_together(0, 1), {64, 64}), parameters(put_together(0, 1), {64, 64}));
}

TEST(RecutScalesTest, MayBeEmpty) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "scale", Dtype::kF32, {0, 2});
  checkpoint.Add("s", "other", Dtype::kF32, {2, 0});
  const MemorySource source(checkpoint);
  std::mt19937 random(1);
  const ExpressionPtr no_rows =
      RecutScales(Copy(source.catalog(), 0), 0, 256, {128, 128}, {64, 64});
  testing::ExpectInAnyPieces(source, *no_rows, "", random);
  const ExpressionPtr no_cols =
      RecutScales(Copy(source.catalog(), 1), 256, 0, {128, 128}, {64, 64});
  testing::ExpectInAnyPieces(source, *no_cols, "", random);
  EXPECT_EQ(no_cols->shape(), (formats::Shape{4, 0}));
  EXPECT_GE(no_cols->input_bytes_per_output_byte(), 1U);
}

TEST(RecutScalesTest, RefusesBlocksThatAreNoMultiplesAndScalesOfAnotherShape) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "scale", Dtype::kF32, {3, 2});
  const MemorySource source(checkpoint);
  const auto code = [&](std::uint64_t rows, std::uint64_t cols, quant::BlockShape from,
                        quant::BlockShape to) {
    return testing::ErrorOf([&] {
             RecutScales(Copy(source.catalog(), 0), rows, cols, from, to);
             throw Error(ErrorCode::kUsage, "it is right");
           })
        .code();
  };
  EXPECT_EQ(code(300, 256, {128, 128}, {64, 64}), ErrorCode::kUsage);
  EXPECT_EQ(code(300, 256, {128, 128}, {48, 64}), ErrorCode::kInternal);
  EXPECT_EQ(code(300, 256, {128, 128}, {64, 96}), ErrorCode::kInternal);
  EXPECT_EQ(code(300, 256, {128, 128}, {0, 64}), ErrorCode::kInternal);
  EXPECT_EQ(code(300, 256, {128, 0}, {128, 64}), ErrorCode::kInternal);
  EXPECT_EQ(code(385, 256, {128, 128}, {64, 64}), ErrorCode::kInternal);
  EXPECT_EQ(code(300, 257, {128, 128}, {64, 64}), ErrorCode::kInternal);
}

TEST(RecutScalesTest, RefusesWhatIsMadeTogetherWithAnotherTensor) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "w", Dtype::kBF16, {2, 2});
  const MemorySource source(checkpoint);
  const testing::PanelExpressions panels =
      testing::MakePanels(source.catalog(), {0, 1, 1, std::nullopt});
  for (const ExpressionPtr& scales : {panels.value, panels.sums}) {
    const Error error = testing::ErrorOf([&] {
      RecutScales(scales, 256, 256, {128, 128}, {64, 64});
      throw Error(ErrorCode::kUsage, "it was taken");
    });
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
  }
}

}  // namespace
}  // namespace dsv3::convert

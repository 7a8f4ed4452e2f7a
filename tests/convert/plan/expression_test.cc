#include "convert/plan/expression.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "convert/plan/dequantize_expression.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::MemorySource;
using testing::TinyCheckpoint;

// The value in pieces that end at the given multiples of `element_bytes`.
std::string InPieces(const MemorySource& source, const Expression& expression,
                     const std::vector<std::uint64_t>& cuts, EvaluationCounts& counts) {
  std::string value;
  std::uint64_t begin = 0;
  for (const std::uint64_t end : cuts) {
    value += source.Evaluate(expression, begin, end, counts);
    begin = end;
  }
  return value + source.Evaluate(expression, begin, expression.num_bytes(), counts);
}

// Cuts of every granularity from one element up.
void ExpectCutsDoNotMatter(const MemorySource& source, const Expression& expression,
                           std::uint64_t element_bytes) {
  EvaluationCounts whole_counts;
  const std::string whole = source.Evaluate(expression, whole_counts);
  ASSERT_EQ(whole.size(), expression.num_bytes());
  for (std::uint64_t step = element_bytes; step < whole.size(); step += element_bytes) {
    std::vector<std::uint64_t> cuts;
    for (std::uint64_t cut = step; cut < whole.size(); cut += step) cuts.push_back(cut);
    EvaluationCounts counts;
    EXPECT_TRUE(InPieces(source, expression, cuts, counts) == whole)
        << "pieces of " << step << " bytes";
    EXPECT_EQ(counts.nan_codes, whole_counts.nan_codes) << "pieces of " << step << " bytes";
  }
}

TEST(CopyTest, GivesTheSourceBytesInAnyPieces) {
  for (const Dtype dtype : {Dtype::kU8, Dtype::kBool, Dtype::kI64, Dtype::kF32, Dtype::kF8E4M3}) {
    TinyCheckpoint checkpoint;
    checkpoint.Add("s", "t", dtype, {3, 7});
    const MemorySource source(checkpoint);
    const ExpressionPtr copy = Copy(source.catalog(), 0);
    EXPECT_EQ(copy->dtype(), dtype);
    EXPECT_EQ(copy->shape(), (formats::Shape{3, 7}));
    EXPECT_EQ(copy->rule(), "copy");
    EvaluationCounts counts;
    EXPECT_TRUE(source.Evaluate(*copy, counts) == checkpoint.tensors[0].bytes);
    ExpectCutsDoNotMatter(source, *copy, formats::DtypeBits(dtype) / 8);
  }
}

struct Case {
  formats::Shape shape;
  quant::BlockShape block;
};

class DequantizeTest : public ::testing::TestWithParam<Case> {
 protected:
  static TinyCheckpoint Checkpoint(Dtype scale_dtype) {
    TinyCheckpoint checkpoint;
    checkpoint.Add("s", "w", Dtype::kF8E4M3, GetParam().shape).bytes[0] = '\x7f';
    checkpoint.AddScale("s", "w_scale_inv", scale_dtype,
                        {Blocks(0, GetParam().block.rows), Blocks(1, GetParam().block.cols)});
    return checkpoint;
  }

 private:
  static std::uint64_t Blocks(std::size_t dim, std::uint64_t block) {
    return (GetParam().shape[dim] + block - 1) / block;
  }
};

TEST_P(DequantizeTest, EqualsTheScalarMeaningInAnyPieces) {
  for (const Dtype scale_dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF8E8M0}) {
    TinyCheckpoint checkpoint = Checkpoint(scale_dtype);
    const MemorySource source(checkpoint);
    const ExpressionPtr value =
        Dequantize(source.catalog(),
                   testing::MatrixPair(source.catalog(), source.catalog().Find("w"),
                                       source.catalog().Find("w_scale_inv"), GetParam().block));
    EXPECT_EQ(value->dtype(), Dtype::kBF16);
    EXPECT_EQ(value->shape(), GetParam().shape);
    EXPECT_EQ(value->rule(), "dequantize");
    ASSERT_EQ(value->side_sources().size(), 1U);

    const std::string& codes = checkpoint.Find("w").bytes;
    const std::string& scale_bytes = checkpoint.Find("w_scale_inv").bytes;
    std::vector<float> scales;
    quant::DecodeScales(*ScaleFormatOf(scale_dtype), std::as_bytes(std::span(scale_bytes)), scales);
    quant::DequantizeSpan span;
    span.codes = {reinterpret_cast<const std::uint8_t*>(codes.data()), codes.size()};
    span.cols = GetParam().shape[1];
    span.block = GetParam().block;
    span.scales = scales;
    std::vector<std::uint16_t> expected(codes.size());
    quant::DequantizeCounts expected_counts;
    quant::DequantizeE4M3ToBF16Scalar(span, expected.data(), expected_counts);

    EvaluationCounts counts;
    const std::string whole = source.Evaluate(*value, counts);
    ASSERT_EQ(whole.size(), expected.size() * 2);
    EXPECT_EQ(std::memcmp(whole.data(), expected.data(), whole.size()), 0);
    EXPECT_EQ(counts.nan_codes, expected_counts.nan_codes);
    EXPECT_GT(counts.nan_codes, 0U);
    ExpectCutsDoNotMatter(source, *value, 2);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DequantizeTest,
                         ::testing::Values(Case{{8, 16}, {4, 8}}, Case{{9, 17}, {4, 8}},
                                           Case{{1, 5}, {128, 128}}, Case{{13, 1}, {4, 8}},
                                           Case{{7, 33}, {1, 32}}, Case{{33, 7}, {32, 1}}));

TEST(DequantizeExpressionTest, ReadsEachWeightByteOnceAndOnlyTheScaleRowsOfItsRange) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "w", Dtype::kF8E4M3, {12, 8});
  checkpoint.AddScale("s", "w_scale_inv", Dtype::kF32, {3, 1});
  const MemorySource source(checkpoint);
  const std::uint32_t weight = source.catalog().Find("w");
  const std::uint32_t scale = source.catalog().Find("w_scale_inv");
  const ExpressionPtr value =
      Dequantize(source.catalog(), testing::MatrixPair(source.catalog(), weight, scale, {4, 8}));
  std::vector<SourceRange> reads;
  // Elements 40 to 64: rows 5 to 7, of the second scale row.
  value->AppendReads(80, 128, reads);
  ASSERT_EQ(reads.size(), 2U);
  EXPECT_EQ(reads[0].tensor, weight);
  EXPECT_EQ(reads[0].begin, 40U);
  EXPECT_EQ(reads[0].end, 64U);
  EXPECT_EQ(reads[1].tensor, scale);
  EXPECT_EQ(reads[1].begin, 4U);
  EXPECT_EQ(reads[1].end, 8U);
}

TEST(DequantizeExpressionTest, RefusesAnUncheckedPair) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "w", Dtype::kF8E4M3, {12, 8});
  checkpoint.AddScale("s", "w_scale_inv", Dtype::kF32, {2, 1});
  const MemorySource source(checkpoint);
  const Error error = testing::ErrorOf([&] {
    Dequantize(source.catalog(), testing::MatrixPair(source.catalog(), source.catalog().Find("w"),
                                                     source.catalog().Find("w_scale_inv"), {4, 8}));
  });
  EXPECT_EQ(error.code(), ErrorCode::kInternal);
  EXPECT_EQ(error.place().tensor, "w");
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/plan/slice_expression.h"

#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/recut_scales_expression.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/panel_expression.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using ::testing::ElementsAre;
using testing::MemorySource;
using testing::TinyCheckpoint;

std::uint64_t ElementBytes(Dtype dtype) { return formats::DtypeBits(dtype) / 8; }

// A box of row-major bytes, element by element.
std::string Cut(const std::string& bytes, const MatrixShape& matrix, std::uint64_t element_bytes,
                const Box& box) {
  std::string cut;
  for (std::uint64_t row = box.row_begin; row < box.row_end; ++row) {
    for (std::uint64_t col = box.col_begin; col < box.col_end; ++col) {
      cut += bytes.substr((row * matrix.cols + col) * element_bytes, element_bytes);
    }
  }
  return cut;
}

// [begin, end) that is not empty, within [0, size).
std::pair<std::uint64_t, std::uint64_t> RandomRange(std::uint64_t size, std::mt19937& random) {
  const std::uint64_t begin = random() % size;
  return {begin, begin + 1 + random() % (size - begin)};
}

Box RandomBox(const MatrixShape& matrix, std::mt19937& random) {
  Box box = Whole(matrix);
  if (random() % 4 != 0) std::tie(box.row_begin, box.row_end) = RandomRange(matrix.rows, random);
  if (random() % 2 != 0) std::tie(box.col_begin, box.col_end) = RandomRange(matrix.cols, random);
  return box;
}

// A source and expressions over it: copies, a dequantised weight, tensors put together from rows,
// from columns.
struct Origins {
  TinyCheckpoint checkpoint;
  std::vector<ExpressionPtr> all;
};

Origins MakeOrigins(Dtype dtype) {
  Origins origins;
  TinyCheckpoint& checkpoint = origins.checkpoint;
  checkpoint.Add("s", "matrix", dtype, {13, 7});
  checkpoint.Add("s", "vector", dtype, {29});
  checkpoint.Add("s", "scalar", dtype, {});
  checkpoint.Add("s", "cube", dtype, {3, 4, 5});
  checkpoint.Add("s", "left", dtype, {9, 4});
  checkpoint.Add("s", "right", dtype, {9, 3});
  checkpoint.Add("s", "weight", Dtype::kF8E4M3, {11, 9});
  checkpoint.AddScale("s", "weight_scale_inv", Dtype::kF32, {3, 2});
  const MemorySource source(checkpoint);
  const Catalog& catalog = source.catalog();
  for (const char* const name : {"matrix", "vector", "scalar", "cube"}) {
    origins.all.push_back(Copy(catalog, catalog.Find(name)));
  }
  origins.all.push_back(Assemble(
      catalog, "rows", dtype, {18, 4},
      {{{0, 9, 0, 4}, catalog.Find("left"), 0, 0}, {{9, 18, 0, 4}, catalog.Find("left")}}));
  origins.all.push_back(Assemble(
      catalog, "columns", dtype, {9, 7},
      {{{0, 9, 0, 4}, catalog.Find("left"), 0, 0}, {{0, 9, 4, 7}, catalog.Find("right"), 0, 0}}));
  if (dtype == Dtype::kBF16) {
    origins.all.push_back(
        Dequantize(catalog, testing::MatrixPair(catalog, catalog.Find("weight"),
                                                catalog.Find("weight_scale_inv"), {4, 8})));
  }
  return origins;
}

class SliceTest : public ::testing::TestWithParam<Dtype> {};

INSTANTIATE_TEST_SUITE_P(Dtypes, SliceTest,
                         ::testing::Values(Dtype::kU8, Dtype::kBF16, Dtype::kF32, Dtype::kI64));

TEST_P(SliceTest, IsTheBoxesOneBehindTheOtherAndThenZerosInAnyPieces) {
  const Origins origins = MakeOrigins(GetParam());
  const MemorySource source(origins.checkpoint);
  const std::uint64_t element_bytes = ElementBytes(GetParam());
  std::mt19937 random(7);
  for (int round = 0; round < 150; ++round) {
    std::vector<SlicePart> parts;
    std::string expected;
    for (std::size_t i = 0; i < 1 + random() % 3; ++i) {
      const ExpressionPtr& origin = origins.all[random() % origins.all.size()];
      const MatrixShape matrix = MatrixOf(origin->shape());
      const Box box = RandomBox(matrix, random);
      EvaluationCounts counts;
      expected += Cut(source.Evaluate(*origin, counts), matrix, element_bytes, box);
      parts.push_back({origin, box});
    }
    const std::uint64_t zeros = random() % 2 == 0 ? 0 : random() % 20;
    expected.append(zeros * element_bytes, '\0');
    const SliceExpression slice(GetParam(), {expected.size() / element_bytes}, std::move(parts));
    EXPECT_EQ(slice.zero_bytes(), zeros * element_bytes);
    testing::ExpectInAnyPieces(source, slice, expected, random);
    if (HasFatalFailure()) return;
  }
}

// Another expression that is asked for nothing but what it may be asked for.
class Strict final : public Expression {
 public:
  explicit Strict(ExpressionPtr inner)
      : Expression(inner->dtype(), inner->shape()), inner_(std::move(inner)) {}

  std::string_view rule() const override { return inner_->rule(); }
  std::vector<std::uint32_t> streamed_sources() const override {
    return inner_->streamed_sources();
  }
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    EXPECT_LT(position, num_bytes());
    return inner_->CutAtOrBefore(position);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    EXPECT_LT(position, num_bytes());
    return inner_->CutAfter(position);
  }
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    EXPECT_LT(begin, end);
    EXPECT_EQ(CutAtOrBefore(begin), begin);
    EXPECT_TRUE(end == num_bytes() || CutAtOrBefore(end) == end) << end;
    inner_->AppendReads(begin, end, reads);
  }
  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    EXPECT_EQ(out.value.size(), end - begin);
    inner_->Evaluate(begin, end, inputs, out);
  }

 private:
  ExpressionPtr inner_;
};

// An origin that can be cut at every third row only, and boxes that begin and end between.
TEST(SliceExpressionTest, CutsWhereItsOriginCannotBeCut) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "scale", Dtype::kBF16, {4, 5});
  const MemorySource source(checkpoint);
  const ExpressionPtr origin =
      std::make_shared<Strict>(RecutScales(Copy(source.catalog(), 0), 12, 5, {3, 1}, {1, 1}));
  EvaluationCounts counts;
  const std::string whole = source.Evaluate(*origin, counts);
  std::mt19937 random(9);
  for (int round = 0; round < 100; ++round) {
    const Box box = RandomBox({12, 5}, random);
    const SliceExpression slice(Dtype::kBF16, {box.rows(), box.cols()}, {{origin, box}});
    const std::string expected = Cut(whole, {12, 5}, 2, box);
    EXPECT_TRUE(source.Evaluate(slice, counts) == expected);
    std::string value;
    while (value.size() < expected.size()) {
      const std::uint64_t end = slice.CutAfter(value.size());
      EXPECT_LE(end - value.size(), slice.LongestPiece());
      EXPECT_EQ(slice.CutAtOrBefore(end - 1), value.size());
      value += source.Evaluate(slice, value.size(), end, counts);
    }
    EXPECT_TRUE(value == expected);
  }
}

TEST(SliceExpressionTest, ReadsOnlyTheBytesOfWholeRows) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "t", Dtype::kBF16, {10, 6});
  const MemorySource source(checkpoint);
  const SliceExpression slice(Dtype::kBF16, {4, 6}, {{Copy(source.catalog(), 0), {3, 7, 0, 6}}});
  std::vector<SourceRange> reads;
  slice.AppendReads(0, slice.num_bytes(), reads);
  ASSERT_EQ(reads.size(), 1U);
  EXPECT_EQ(reads[0].begin, 36U);
  EXPECT_EQ(reads[0].end, 84U);
  reads.clear();
  slice.AppendReads(5, 7, reads);
  ASSERT_EQ(reads.size(), 1U);
  EXPECT_EQ(reads[0].begin, 41U);
  EXPECT_EQ(reads[0].end, 43U);
  EXPECT_EQ(slice.input_bytes_per_output_byte(), 1U);
}

TEST(SliceExpressionTest, TellsWhatTakingAPartOfRowsTakes) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "t", Dtype::kBF16, {10, 6});
  const MemorySource source(checkpoint);
  const ExpressionPtr origin = Copy(source.catalog(), 0);
  // Two bytes are read and two are made for each byte of a half.
  EXPECT_EQ(SliceExpression(Dtype::kBF16, {10, 3}, {{origin, {0, 10, 3, 6}}})
                .input_bytes_per_output_byte(),
            4U);
  EXPECT_EQ(SliceExpression(Dtype::kBF16, {10, 4}, {{origin, {0, 10, 2, 6}}})
                .input_bytes_per_output_byte(),
            3U);
}

TEST(SliceExpressionTest, CountsWhatItsOriginsCount) {
  TinyCheckpoint checkpoint;
  std::string& codes = checkpoint.Add("s", "w", Dtype::kF8E4M3, {4, 8}).bytes;
  codes.assign(codes.size(), '\x30');
  codes[1] = codes[9] = codes[31] = '\x7f';
  checkpoint.AddScale("s", "scale", Dtype::kF32, {1, 1});
  const MemorySource source(checkpoint);
  const ExpressionPtr weight =
      Dequantize(source.catalog(), testing::MatrixPair(source.catalog(), 0, 1, {4, 8}));
  const auto counted = [&](const Box& box) {
    EvaluationCounts counts;
    source.Evaluate(SliceExpression(Dtype::kBF16, {box.rows(), box.cols()}, {{weight, box}}),
                    counts);
    return counts.nan_codes;
  };
  EXPECT_EQ(counted({0, 4, 0, 8}), 3U);
  EXPECT_EQ(counted({1, 3, 0, 8}), 1U);
  // Whole rows are made.
  EXPECT_EQ(counted({0, 1, 4, 8}), 1U);
}

TEST(SliceExpressionTest, TellsItsBoxesAndTheSourcesOfAllParts) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "a", Dtype::kF8E4M3, {8, 8});
  checkpoint.AddScale("s", "a_scale", Dtype::kF32, {2, 1});
  checkpoint.Add("s", "b", Dtype::kBF16, {8, 8});
  const MemorySource source(checkpoint);
  const ExpressionPtr a =
      Dequantize(source.catalog(), testing::MatrixPair(source.catalog(), 0, 1, {4, 8}));
  const ExpressionPtr b = Copy(source.catalog(), 2);
  const auto slice_of = [](std::vector<SlicePart> parts) {
    return SliceExpression(Dtype::kBF16, {12, 8}, std::move(parts));
  };
  const SliceExpression slice = slice_of({{b, {0, 4, 0, 8}}, {a, {0, 4, 0, 8}}, {b, {4, 8, 0, 8}}});
  EXPECT_EQ(slice.rule(), "slice");
  EXPECT_EQ(slice.slice(), &slice);
  EXPECT_THAT(slice.streamed_sources(), ElementsAre(2, 0));
  EXPECT_THAT(slice.side_sources(), ElementsAre(1));
  EXPECT_FALSE(slice.streams_whole_source());
  EXPECT_NE(slice.parameters(),
            slice_of({{b, {0, 4, 0, 8}}, {a, {1, 5, 0, 8}}, {b, {4, 8, 0, 8}}}).parameters());
  EXPECT_NE(slice.parameters(),
            slice_of({{b, {0, 4, 0, 8}}, {a, {0, 4, 0, 8}}, {b, {4, 8, 0, 7}}}).parameters());
}

TEST(SliceExpressionTest, KnowsAWholeSourceTensor) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "a", Dtype::kBF16, {8, 8});
  checkpoint.Add("s", "w", Dtype::kF8E4M3, {8, 8});
  checkpoint.AddScale("s", "w_scale", Dtype::kF32, {2, 1});
  const MemorySource source(checkpoint);
  const ExpressionPtr a = Copy(source.catalog(), 0);
  const ExpressionPtr w =
      Dequantize(source.catalog(), testing::MatrixPair(source.catalog(), 1, 2, {4, 8}));
  const Box whole = {0, 8, 0, 8};
  EXPECT_TRUE(SliceExpression(Dtype::kBF16, {8, 8}, {{a, whole}}).IsWholeCopy());
  EXPECT_FALSE(SliceExpression(Dtype::kBF16, {9, 8}, {{a, whole}}).IsWholeCopy());
  EXPECT_FALSE(SliceExpression(Dtype::kBF16, {7, 8}, {{a, {0, 7, 0, 8}}}).IsWholeCopy());
  EXPECT_FALSE(SliceExpression(Dtype::kBF16, {16, 8}, {{a, whole}, {a, whole}}).IsWholeCopy());
  EXPECT_FALSE(SliceExpression(Dtype::kBF16, {8, 8}, {{w, whole}}).IsWholeCopy());
  EXPECT_FALSE(SliceExpression(Dtype::kBF16, {8, 8}, {}).IsWholeCopy());
}

TEST(SliceExpressionTest, MayBeNothingButZerosOrEmpty) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "a", Dtype::kBF16, {8, 8});
  checkpoint.Add("s", "nothing", Dtype::kBF16, {0, 8});
  const MemorySource source(checkpoint);
  const ExpressionPtr a = Copy(source.catalog(), 0);
  const ExpressionPtr nothing = Copy(source.catalog(), 1);
  std::mt19937 random(1);
  const SliceExpression no_parts(Dtype::kBF16, {2, 8}, {});
  testing::ExpectInAnyPieces(source, no_parts, std::string(32, '\0'), random);
  EXPECT_TRUE(no_parts.streamed_sources().empty());
  const SliceExpression empty_box(Dtype::kBF16, {2, 8}, {{a, {8, 8, 0, 8}}});
  testing::ExpectInAnyPieces(source, empty_box, std::string(32, '\0'), random);
  EXPECT_THAT(empty_box.streamed_sources(), ElementsAre(0));
  const SliceExpression no_columns(Dtype::kBF16, {2, 8}, {{a, {0, 8, 3, 3}}});
  testing::ExpectInAnyPieces(source, no_columns, std::string(32, '\0'), random);
  EXPECT_EQ(no_columns.input_bytes_per_output_byte(), 1U);
  const SliceExpression of_nothing(Dtype::kBF16, {0, 8}, {{nothing, {0, 0, 0, 8}}});
  testing::ExpectInAnyPieces(source, of_nothing, "", random);
  EXPECT_EQ(of_nothing.zero_bytes(), 0U);
}

// Refuses what no recipe may plan; each case differs from one that is right in one thing.
TEST(SliceExpressionTest, RefusesWhatDoesNotFit) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "a", Dtype::kBF16, {8, 6});
  checkpoint.Add("s", "packed", Dtype::kF4, {8, 6});
  const MemorySource source(checkpoint);
  const ExpressionPtr a = Copy(source.catalog(), 0);
  const ExpressionPtr packed = Copy(source.catalog(), 1);
  const auto code = [](Dtype dtype, Shape shape, std::vector<SlicePart> parts) {
    return testing::ErrorOf([&] {
             SliceExpression(dtype, std::move(shape), std::move(parts));
             throw Error(ErrorCode::kUsage, "it is right");
           })
        .code();
  };
  EXPECT_EQ(code(Dtype::kBF16, {4, 3}, {{a, {4, 8, 3, 6}}}), ErrorCode::kUsage);
  EXPECT_EQ(code(Dtype::kBF16, {4, 3}, {{a, {5, 9, 3, 6}}}), ErrorCode::kInternal);
  EXPECT_EQ(code(Dtype::kBF16, {4, 3}, {{a, {4, 8, 4, 7}}}), ErrorCode::kInternal);
  EXPECT_EQ(code(Dtype::kF16, {4, 3}, {{a, {4, 8, 3, 6}}}), ErrorCode::kInternal);
  EXPECT_EQ(code(Dtype::kBF16, {4, 2}, {{a, {4, 8, 3, 6}}}), ErrorCode::kInternal);
  EXPECT_EQ(code(Dtype::kF4, {8, 6}, {{packed, {0, 8, 0, 6}}}), ErrorCode::kInternal);
}

TEST(SliceExpressionTest, RefusesWhatIsMadeTogetherWithAnotherTensor) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "w", Dtype::kBF16, {8, 6});
  const MemorySource source(checkpoint);
  const testing::PanelExpressions panels =
      testing::MakePanels(source.catalog(), {0, 4, 3, std::nullopt});
  for (const ExpressionPtr& origin : {panels.value, panels.sums}) {
    const Error error = testing::ErrorOf([&] {
      SliceExpression(origin->dtype(), {1}, {{origin, {0, 1, 0, 1}}});
      throw Error(ErrorCode::kUsage, "it was taken");
    });
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
  }
}

}  // namespace
}  // namespace dsv3::convert

#include "convert/plan/assemble_expression.h"

#include <algorithm>
#include <array>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MemorySource;
using testing::TinyCheckpoint;

// Cuts a box in two, again and again, at random places.
void CutAtRandom(const Box& box, int depth, bool rows_only, std::mt19937& random,
                 std::vector<Box>& boxes) {
  const bool by_rows = rows_only || random() % 2 == 0;
  const std::uint64_t size = by_rows ? box.rows() : box.cols();
  if (depth == 0 || size < 2) {
    boxes.push_back(box);
    return;
  }
  Box first = box;
  Box second = box;
  const std::uint64_t at = 1 + random() % (size - 1);
  if (by_rows) {
    first.row_end = second.row_begin = box.row_begin + at;
  } else {
    first.col_end = second.col_begin = box.col_begin + at;
  }
  CutAtRandom(first, depth - 1, rows_only, random, boxes);
  CutAtRandom(second, depth - 1, rows_only, random, boxes);
}

struct Tiled {
  TinyCheckpoint checkpoint;
  std::vector<Tile> tiles;  // positions are those in the checkpoint
  std::string expected;
};

// A value in random tiles, each in a source tensor of its own that may be larger, or several in
// one.
Tiled RandomTiles(const MatrixShape& matrix, Dtype dtype, bool rows_only, std::mt19937& random) {
  const std::uint64_t element_bytes = formats::DtypeBits(dtype) / 8;
  std::vector<Box> boxes;
  CutAtRandom(Whole(matrix), static_cast<int>(random() % 5), rows_only, random, boxes);
  Tiled tiled;
  tiled.expected.resize(matrix.rows * matrix.cols * element_bytes);
  for (const Box& box : boxes) {
    const std::uint64_t more_cols = rows_only ? 0 : random() % 3;
    const std::uint64_t row = random() % 3;
    const std::uint64_t col = more_cols == 0 ? 0 : random() % more_cols;
    const MatrixShape held = {box.rows() + row + random() % 3, box.cols() + more_cols};
    const std::string& bytes =
        tiled.checkpoint
            .Add("s", "t" + std::to_string(tiled.tiles.size()), dtype, {held.rows, held.cols})
            .bytes;
    for (std::uint64_t r = 0; r < box.rows(); ++r) {
      for (std::uint64_t c = 0; c < box.cols(); ++c) {
        tiled.expected.replace(
            ((box.row_begin + r) * matrix.cols + box.col_begin + c) * element_bytes, element_bytes,
            bytes, ((row + r) * held.cols + col + c) * element_bytes, element_bytes);
      }
    }
    tiled.tiles.push_back({box, static_cast<std::uint32_t>(tiled.tiles.size()), row, col});
  }
  std::shuffle(tiled.tiles.begin(), tiled.tiles.end(), random);
  return tiled;
}

TEST(AssembleTest, PutsTilesWhereTheyBelongInAnyPieces) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    const Dtype dtype = std::vector{Dtype::kU8, Dtype::kBF16, Dtype::kF32}[random() % 3];
    const MatrixShape matrix = {1 + random() % 20, 1 + random() % 12};
    const bool rows_only = random() % 3 == 0;
    const Tiled tiled = RandomTiles(matrix, dtype, rows_only, random);
    const MemorySource source(tiled.checkpoint);
    const ExpressionPtr value =
        Assemble(source.catalog(), "value", dtype, {matrix.rows, matrix.cols}, tiled.tiles);
    EXPECT_EQ(value->dtype(), dtype);
    EXPECT_EQ(value->shape(), (Shape{matrix.rows, matrix.cols}));
    testing::ExpectInAnyPieces(source, *value, tiled.expected, random);
    if (HasFatalFailure()) return;
    if (!rows_only) continue;
    EXPECT_EQ(value->input_bytes_per_output_byte(), 1U);
    EXPECT_LE(value->CutAfter(0), formats::DtypeBits(dtype) / 8);
  }
}

// As the elements of a transposed tensor lie in its storage, or those of a slice with a step.
TEST(AssembleTest, GathersTilesWhoseElementsLieApart) {
  std::mt19937 random(17);
  for (int round = 0; round < 200; ++round) {
    // Some are larger than the squares in which tiles are transposed.
    const std::uint64_t most = round % 20 == 0 ? 150 : 12;
    const MatrixShape matrix = {1 + random() % most, 1 + random() % most};
    const Dtype dtype =
        std::vector{Dtype::kU8, Dtype::kBF16, Dtype::kF32, Dtype::kF64}[random() % 4];
    const std::uint64_t width = formats::DtypeBits(dtype) / 8;
    std::vector<Box> boxes;
    CutAtRandom(Whole(matrix), static_cast<int>(random() % 3), false, random, boxes);
    TinyCheckpoint checkpoint;
    std::vector<Tile> tiles;
    std::string expected(matrix.rows * matrix.cols * width, '\0');
    for (const Box& box : boxes) {
      const std::uint64_t first = random() % 5;
      const bool transposed = random() % 2 == 0;
      const std::uint64_t near = 1 + random() % 3;
      const std::uint64_t far = near * (transposed ? box.rows() : box.cols()) + random() % 3;
      const std::uint64_t row_step = transposed ? near : far;
      const std::uint64_t col_step = transposed ? far : near;
      const std::uint64_t elements =
          first + (box.rows() - 1) * row_step + (box.cols() - 1) * col_step + 1;
      const std::string& bytes =
          checkpoint.Add("s", "t" + std::to_string(tiles.size()), dtype, {elements}).bytes;
      for (std::uint64_t r = 0; r < box.rows(); ++r) {
        for (std::uint64_t c = 0; c < box.cols(); ++c) {
          expected.replace(((box.row_begin + r) * matrix.cols + box.col_begin + c) * width, width,
                           bytes, (first + r * row_step + c * col_step) * width, width);
        }
      }
      tiles.push_back(
          {box, static_cast<std::uint32_t>(tiles.size()), first, 0, row_step, col_step});
    }
    const MemorySource source(checkpoint);
    const ExpressionPtr value =
        Assemble(source.catalog(), "value", dtype, {matrix.rows, matrix.cols}, tiles);
    testing::ExpectInAnyPieces(source, *value, expected, random);
    if (HasFatalFailure()) return;
  }
}

TEST(AssembleTest, RefusesStepsThatLeaveTheirSource) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "storage", Dtype::kBF16, {12});
  const MemorySource source(checkpoint);
  const auto assemble = [&](std::uint64_t first, std::uint64_t row_step, std::uint64_t col_step) {
    return Assemble(source.catalog(), "value", Dtype::kBF16, {3, 4},
                    {{{0, 3, 0, 4}, 0, first, 0, row_step, col_step}});
  };
  EXPECT_EQ(assemble(0, 1, 3)->num_bytes(), 24U);
  for (const std::array<std::uint64_t, 3>& tile :
       {std::array<std::uint64_t, 3>{1, 1, 3}, {0, 2, 3}, {0, 1, 4}, {0, UINT64_MAX, 3}}) {
    const Error error = testing::ErrorOf([&] { assemble(tile[0], tile[1], tile[2]); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr("steps of"));
  }
}

TEST(AssembleTest, StreamsEachSourceInOrder) {
  std::mt19937 random(13);
  for (int round = 0; round < 50; ++round) {
    const Tiled tiled = RandomTiles({15, 9}, Dtype::kU8, round % 2 == 0, random);
    const MemorySource source(tiled.checkpoint);
    const ExpressionPtr value =
        Assemble(source.catalog(), "value", Dtype::kU8, {15, 9}, tiled.tiles);
    std::vector<std::uint64_t> next(tiled.tiles.size());
    std::vector<SourceRange> reads;
    for (std::uint64_t at = 0; at < value->num_bytes(); at = value->CutAfter(at)) {
      value->AppendReads(at, value->CutAfter(at), reads);
    }
    for (const SourceRange& read : reads) {
      if (next[read.tensor] != 0) {
        EXPECT_EQ(read.begin, next[read.tensor]);
      }
      next[read.tensor] = read.end;
    }
  }
}

TEST(AssembleTest, IsACopyWhereOneTensorIsTheWhole) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "other", Dtype::kBF16, {4, 6});
  checkpoint.Add("s", "whole", Dtype::kBF16, {4, 6});
  checkpoint.Add("s", "longer", Dtype::kBF16, {5, 6});
  checkpoint.Add("s", "cube", Dtype::kBF16, {2, 2, 6});
  const MemorySource source(checkpoint);
  const auto rule = [&](std::uint32_t tensor) {
    const ExpressionPtr value =
        Assemble(source.catalog(), "whole", Dtype::kBF16, {4, 6}, {{{0, 4, 0, 6}, tensor, 0, 0}});
    EXPECT_THAT(value->streamed_sources(), ElementsAre(tensor));
    EXPECT_EQ(value->streams_whole_source(), value->rule() == "copy");
    EXPECT_EQ(value->shape(), (Shape{4, 6}));
    return std::string(value->rule());
  };
  EXPECT_EQ(rule(1), "copy");
  EXPECT_EQ(rule(2), "assemble");
  EXPECT_EQ(rule(3), "assemble");
}

TEST(AssembleTest, NamesEachSourceOnceAndWhereItsTilesLie) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "a", Dtype::kU8, {2, 6});
  checkpoint.Add("s", "b", Dtype::kU8, {4, 6});
  const MemorySource source(checkpoint);
  const auto assemble = [&](const std::vector<Tile>& tiles) {
    return Assemble(source.catalog(), "value", Dtype::kU8, {6, 6}, tiles);
  };
  const ExpressionPtr value =
      assemble({{{2, 4, 0, 6}, 0, 0, 0}, {{4, 6, 0, 6}, 1, 2, 0}, {{0, 2, 0, 6}, 1, 0, 0}});
  EXPECT_THAT(value->streamed_sources(), ElementsAre(1, 0));
  const auto beside = [&](const std::vector<Tile>& tiles) {
    return Assemble(source.catalog(), "value", Dtype::kU8, {2, 12}, tiles);
  };
  EXPECT_EQ(beside({{{0, 2, 0, 6}, 1, 0, 0}, {{0, 2, 6, 12}, 0, 0, 0}})->parameters(),
            beside({{{0, 2, 6, 12}, 0, 0, 0}, {{0, 2, 0, 6}, 1, 0, 0}})->parameters());
  const std::string parameters = value->parameters();
  // Another order of the same tiles, other rows of a source, the sources changed over.
  EXPECT_EQ(assemble({{{0, 2, 0, 6}, 1, 0, 0}, {{2, 4, 0, 6}, 0, 0, 0}, {{4, 6, 0, 6}, 1, 2, 0}})
                ->parameters(),
            parameters);
  EXPECT_NE(assemble({{{0, 2, 0, 6}, 1, 0, 0}, {{2, 4, 0, 6}, 0, 0, 0}, {{4, 6, 0, 6}, 1, 1, 0}})
                ->parameters(),
            parameters);
  EXPECT_NE(assemble({{{0, 2, 0, 6}, 1, 0, 0}, {{2, 4, 0, 6}, 1, 2, 0}, {{4, 6, 0, 6}, 0, 0, 0}})
                ->parameters(),
            parameters);
}

TEST(AssembleTest, MayHaveNoElementsOrOne) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "scalar", Dtype::kF32, {});
  checkpoint.Add("s", "nothing", Dtype::kF32, {0, 5});
  const MemorySource source(checkpoint);
  std::mt19937 random(1);
  for (const Shape& shape : {Shape{0, 4}, Shape{4, 0}, Shape{0}}) {
    const ExpressionPtr value = Assemble(source.catalog(), "value", Dtype::kF32, shape, {});
    testing::ExpectInAnyPieces(source, *value, "", random);
    EXPECT_EQ(value->input_bytes_per_output_byte(), 1U);
  }
  const ExpressionPtr nothing =
      Assemble(source.catalog(), "value", Dtype::kF32, {0, 5}, {{{0, 0, 0, 5}, 1, 0, 0}});
  testing::ExpectInAnyPieces(source, *nothing, "", random);
  const ExpressionPtr one =
      Assemble(source.catalog(), "value", Dtype::kF32, {1}, {{{0, 1, 0, 1}, 0, 0, 0}});
  testing::ExpectInAnyPieces(source, *one, checkpoint.tensors[0].bytes, random);
}

// A value of 6 rows and 8 columns in four quarters.
class AssembleFaultTest : public ::testing::Test {
 protected:
  AssembleFaultTest() : source_(Checkpoint()) {}

  static TinyCheckpoint Checkpoint() {
    TinyCheckpoint checkpoint;
    for (const char* const name : {"q0", "q1", "q2", "q3"}) {
      checkpoint.Add(name == std::string("q3") ? "b" : "a", name, Dtype::kU8, {3, 4});
    }
    checkpoint.Add("b", "other", Dtype::kI8, {3, 4});
    return checkpoint;
  }

  // The error of what `spoil` makes of the tiles.
  Error ErrorOf(const std::function<void(std::vector<Tile>&)>& spoil) const {
    std::vector<Tile> tiles = {{{0, 3, 0, 4}, 0, 0, 0},
                               {{0, 3, 4, 8}, 1, 0, 0},
                               {{3, 6, 0, 4}, 2, 0, 0},
                               {{3, 6, 4, 8}, 3, 0, 0}};
    spoil(tiles);
    return testing::ErrorOf([&] {
      Assemble(source_.catalog(), "value", Dtype::kU8, {6, 8}, tiles);
      throw Error(ErrorCode::kUsage, "it is right");
    });
  }

  MemorySource source_;
};

TEST_F(AssembleFaultTest, NothingIsWrongWithTheQuarters) {
  EXPECT_EQ(ErrorOf([](auto&) {}).code(), ErrorCode::kUsage);
}

TEST_F(AssembleFaultTest, NamesWhatIsMissing) {
  for (std::size_t i = 0; i < 4; ++i) {
    const Error error =
        ErrorOf([&](auto& tiles) { tiles.erase(tiles.begin() + static_cast<std::ptrdiff_t>(i)); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().tensor, "value");
    EXPECT_THAT(error.message(), HasSubstr(i < 2 ? "'value': no file holds rows 0 to 3"
                                                 : "'value': no file holds rows 3 to 6"));
    EXPECT_THAT(error.message(), HasSubstr(i % 2 == 0 ? "columns 0 to 4" : "columns 4 to 8"));
  }
  EXPECT_THAT(ErrorOf([](auto& tiles) { tiles.clear(); }).message(),
              HasSubstr("rows 0 to 6 of columns 0 to 8"));
  EXPECT_THAT(ErrorOf([](auto& tiles) { tiles[2].target.row_begin = 4; }).message(),
              HasSubstr("rows 3 to 4 of columns 0 to 4"));
  EXPECT_THAT(ErrorOf([](auto& tiles) { tiles[1].target.col_end = 7; }).message(),
              HasSubstr("rows 0 to 3 of columns 7 to 8"));
  EXPECT_THAT(ErrorOf([](auto& tiles) { tiles[3].target.row_end = 5; }).message(),
              HasSubstr("rows 5 to 6 of columns 4 to 8"));
}

TEST_F(AssembleFaultTest, NamesWhatIsThereTwiceAndWhere) {
  Error error = ErrorOf([](auto& tiles) { tiles.push_back({{2, 4, 5, 6}, 3, 0, 0}); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "value");
  EXPECT_EQ(error.place().file, "b");
  EXPECT_THAT(error.message(), HasSubstr("rows 2 to 3 of columns 5 to 6 come from both 'q1' in a "
                                         "and 'q3' in b"));
  // The same box twice.
  error = ErrorOf([](auto& tiles) { tiles.push_back(tiles[0]); });
  EXPECT_THAT(error.message(), HasSubstr("rows 0 to 3 of columns 0 to 4 come from both"));
  // As many elements as there should be, some missing and some twice.
  error = ErrorOf([](auto& tiles) { tiles[1].target = {0, 3, 3, 7}; });
  EXPECT_THAT(error.message(), HasSubstr("rows 0 to 3 of columns 3 to 4 come from both"));
  // A later tile that begins left of an earlier one.
  error = ErrorOf([](auto& tiles) { tiles[2].target = {2, 5, 0, 4}; });
  EXPECT_THAT(error.message(), HasSubstr("rows 2 to 3 of columns 0 to 4 come from both"));
}

TEST_F(AssembleFaultTest, RefusesTilesThatAreNotInTheirSourceOrTheValue) {
  const auto refuses = [&](const std::function<void(Tile&)>& spoil, const char* message) {
    const Error error = ErrorOf([&](auto& tiles) { spoil(tiles[3]); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().file, "b");
    EXPECT_THAT(error.message(), HasSubstr(message));
    EXPECT_THAT(error.message(), HasSubstr("'value'"));
  };
  refuses([](Tile& tile) { tile.row = 1; }, "3 x 4 elements from row 1 and column 0");
  refuses([](Tile& tile) { tile.col = 1; }, "has shape [3, 4]");
  refuses([](Tile& tile) { tile.row = UINT64_MAX; }, "3 x 4 elements");
  refuses([](Tile& tile) { tile.col = UINT64_MAX; }, "3 x 4 elements");
  refuses([](Tile& tile) { tile.target.row_end = 7; }, "there are 6 rows of 8 columns");
  refuses([](Tile& tile) { tile.target.col_end = 9; }, "there are 6 rows of 8 columns");
  refuses([](Tile& tile) { tile.tensor = 4; }, "is I8, expected U8");
}

TEST_F(AssembleFaultTest, RefusesAValueWithoutASizeInBytes) {
  const auto code = [&](Dtype dtype, const Shape& shape) {
    return testing::ErrorOf([&] {
             Assemble(source_.catalog(), "value", dtype, shape, {});
             throw Error(ErrorCode::kUsage, "it was taken");
           })
        .code();
  };
  EXPECT_EQ(code(Dtype::kF4, {0, 2}), ErrorCode::kInternal);
  EXPECT_EQ(code(Dtype::kF32, {UINT64_MAX, 2}), ErrorCode::kInternal);
}

TEST_F(AssembleFaultTest, RefusesAPartOfATensorOfTheSameShape) {
  const Error error = testing::ErrorOf([&] {
    Assemble(source_.catalog(), "value", Dtype::kU8, {3, 4}, {{{0, 2, 0, 4}, 0, 0, 0}});
  });
  EXPECT_THAT(error.message(), HasSubstr("no file holds rows 2 to 3"));
}

TEST_F(AssembleFaultTest, TakesNoNoticeOfEmptyTiles) {
  EXPECT_EQ(ErrorOf([](auto& tiles) {
              tiles.push_back({{1, 1, 0, 4}, 1, 0, 0});
            }).code(),
            ErrorCode::kUsage);
  EXPECT_EQ(ErrorOf([](auto& tiles) {
              tiles.push_back({{0, 3, 2, 2}, 4, 0, 0});
            }).code(),
            ErrorCode::kUsage);
}

// Of bands that read more and less for a row the one that reads most counts.
TEST(AssembleTest, TellsWhatTheWidestSourcesTake) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "wide", Dtype::kU8, {4, 20});
  checkpoint.Add("s", "narrow", Dtype::kU8, {4, 10});
  const MemorySource source(checkpoint);
  const auto ratio = [&](std::uint32_t first, std::uint32_t second) {
    return Assemble(source.catalog(), "value", Dtype::kU8, {8, 10},
                    {{{0, 4, 0, 10}, first, 0, 0}, {{4, 8, 0, 10}, second, 0, 0}})
        ->input_bytes_per_output_byte();
  };
  EXPECT_EQ(ratio(0, 1), 2U);
  EXPECT_EQ(ratio(1, 0), 2U);
  EXPECT_EQ(ratio(0, 0), 2U);
  EXPECT_EQ(ratio(1, 1), 1U);
}

// Thousands of tiles are looked up, not gone through.
TEST(AssembleTest, ManyTilesGiveTheSameBytes) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "left", Dtype::kU8, {4000, 1});
  checkpoint.Add("s", "right", Dtype::kU8, {4000, 2});
  std::vector<Tile> tiles = {{{0, 4000, 0, 1}, 0, 0, 0}};
  std::string expected;
  for (std::uint64_t row = 0; row < 4000; ++row) {
    tiles.push_back({{row, row + 1, 1, 3}, 1, 3999 - row, 0});
    expected += checkpoint.tensors[0].bytes[row];
    expected += checkpoint.tensors[1].bytes.substr((3999 - row) * 2, 2);
  }
  const MemorySource source(checkpoint);
  std::mt19937 random(2);
  testing::ExpectInAnyPieces(
      source, *Assemble(source.catalog(), "value", Dtype::kU8, {4000, 3}, std::move(tiles)),
      expected, random);
}

}  // namespace
}  // namespace dsv3::convert

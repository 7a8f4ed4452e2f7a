#include "convert/open/sharded_tensors.h"

#include <cstdint>
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
using ::testing::HasSubstr;
using testing::MemorySource;
using testing::TinyCheckpoint;

struct Cut {
  Shape offsets;
  Shape sizes;
};

// Cuts a box in two, again and again, in random dimensions.
void CutAtRandom(const Cut& cut, int depth, std::mt19937& random, std::vector<Cut>& cuts) {
  const std::size_t dim = cut.sizes.empty() ? 0 : random() % cut.sizes.size();
  if (depth == 0 || cut.sizes.empty() || cut.sizes[dim] < 2) {
    cuts.push_back(cut);
    return;
  }
  Cut first = cut;
  Cut second = cut;
  const std::uint64_t at = 1 + random() % (cut.sizes[dim] - 1);
  first.sizes[dim] = at;
  second.sizes[dim] -= at;
  second.offsets[dim] += at;
  CutAtRandom(first, depth - 1, random, cuts);
  CutAtRandom(second, depth - 1, random, cuts);
}

// Calls `visit` with every index of a box, row by row.
template <typename Visit>
void ForEachIndex(const Shape& sizes, Visit&& visit) {
  Shape index(sizes.size(), 0);
  for (;;) {
    visit(index);
    std::size_t dim = sizes.size();
    while (dim > 0 && ++index[dim - 1] == sizes[dim - 1]) index[--dim] = 0;
    if (dim == 0) return;
  }
}

// A tensor of random bytes whose pieces lie in stored tensors of any strides.
struct Scattered {
  TinyCheckpoint checkpoint;
  ShardedTensor tensor;
  std::string bytes;  // of the whole tensor
};

Scattered ScatterAtRandom(const Shape& shape, std::mt19937& random) {
  Scattered scattered;
  scattered.tensor.name = "whole";
  scattered.tensor.dtype = Dtype::kBF16;
  scattered.tensor.shape = shape;
  const Shape strides = RowMajorStrides(shape);
  const std::uint64_t elements = formats::NumElements(shape).value();
  scattered.bytes.resize(2 * elements);
  std::vector<Cut> cuts;
  CutAtRandom({Shape(shape.size(), 0), shape}, static_cast<int>(random() % 4), random, cuts);
  for (const Cut& cut : cuts) {
    StoredPiece piece{cut.offsets, cut.sizes, 0, 0, RowMajorStrides(cut.sizes)};
    if (random() % 2 == 0 && shape.size() >= 2) {
      // As a transposed tensor lies, behind other elements and with some between its own.
      const std::uint64_t step = 1 + random() % 2;
      std::uint64_t stride = step;
      for (std::size_t dim = 0; dim < shape.size(); ++dim) {
        piece.strides[dim] = stride;
        stride *= cut.sizes[dim];
      }
      piece.first = random() % 3;
    }
    std::uint64_t last = piece.first;
    for (std::size_t dim = 0; dim < shape.size(); ++dim) {
      last += (cut.sizes[dim] - 1) * piece.strides[dim];
    }
    const bool contiguous = piece.first == 0 && piece.strides == RowMajorStrides(cut.sizes);
    piece.stored = static_cast<std::uint32_t>(scattered.tensor.pieces.size());
    const std::string& stored = scattered.checkpoint
                                    .Add("s", "piece" + std::to_string(piece.stored), Dtype::kBF16,
                                         contiguous ? cut.sizes : Shape{last + 1})
                                    .bytes;
    ForEachIndex(cut.sizes, [&](const Shape& index) {
      std::uint64_t from = piece.first;
      std::uint64_t to = 0;
      for (std::size_t dim = 0; dim < shape.size(); ++dim) {
        from += index[dim] * piece.strides[dim];
        to += (cut.offsets[dim] + index[dim]) * strides[dim];
      }
      scattered.bytes.replace(2 * to, 2, stored, 2 * from, 2);
    });
    scattered.tensor.pieces.push_back(std::move(piece));
  }
  return scattered;
}

TEST(ShardedTensorsTest, ComposesAnyRowsOfPiecesOfAnyStrides) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    Shape shape(random() % 4);
    for (std::uint64_t& size : shape) size = 1 + random() % 6;
    const Scattered scattered = ScatterAtRandom(shape, random);
    const MemorySource source(scattered.checkpoint);
    const std::vector<ShardedTensor> tensors = {scattered.tensor};
    Composer composer(tensors, source.catalog());

    const MatrixShape matrix = MatrixOf(shape);
    const std::uint64_t begin = random() % matrix.rows;
    const std::uint64_t rows = 1 + random() % (matrix.rows - begin);
    ComposedTensor composed{"value", {rows, matrix.cols}, {rows, matrix.cols}, {}};
    composed.parts.push_back({0, matrix, {begin, begin + rows, 0, matrix.cols}, false, 0, 0});
    const ExpressionPtr value = composer.Make(composed);
    const std::uint64_t row_bytes = matrix.cols * 2;
    testing::ExpectInAnyPieces(source, *value,
                               scattered.bytes.substr(begin * row_bytes, rows * row_bytes), random);
    if (HasFatalFailure()) return;

    composed = {"value", {matrix.cols, rows}, {matrix.cols, rows}, {}};
    composed.parts.push_back({0, matrix, {begin, begin + rows, 0, matrix.cols}, true, 0, 0});
    std::string transposed(rows * row_bytes, '\0');
    for (std::uint64_t row = 0; row < rows; ++row) {
      for (std::uint64_t col = 0; col < matrix.cols; ++col) {
        transposed.replace((col * rows + row) * 2, 2, scattered.bytes,
                           (begin + row) * row_bytes + col * 2, 2);
      }
    }
    testing::ExpectInAnyPieces(source, *composer.Make(composed), transposed, random);
    if (HasFatalFailure()) return;
  }
}

class TwoPieces : public ::testing::Test {
 protected:
  TwoPieces() {
    checkpoint_.Add("s", "upper", Dtype::kBF16, {2, 3});
    checkpoint_.Add("s", "lower", Dtype::kBF16, {2, 3});
    tensors_ = {{"whole", Dtype::kBF16, {4, 3}, {}}, {"other", Dtype::kF32, {4, 3}, {}}};
    tensors_[0].pieces = {{{0, 0}, {2, 3}, 0, 0, {3, 1}}, {{2, 0}, {2, 3}, 1, 0, {3, 1}}};
  }

  Error ErrorOfMaking() {
    const MemorySource source(checkpoint_);
    Composer composer(tensors_, source.catalog());
    return testing::ErrorOf([&] { composer.Make(composed_); });
  }

  TinyCheckpoint checkpoint_;
  std::vector<ShardedTensor> tensors_;
  ComposedTensor composed_{"value", {4, 3}, {4, 3}, {{0, {4, 3}, {0, 4, 0, 3}, false, 0, 0}}};
};

TEST_F(TwoPieces, MustCoverTheTensor) {
  tensors_[0].pieces.pop_back();
  const Error error = ErrorOfMaking();
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "value");
  EXPECT_THAT(error.message(), HasSubstr("no file holds rows 2 to 4"));
  EXPECT_THAT(error.message(), HasSubstr("save the checkpoint again"));
}

TEST_F(TwoPieces, MustNotOverlap) {
  tensors_[0].pieces[1].offsets = {1, 0};
  EXPECT_THAT(ErrorOfMaking().message(), HasSubstr("come from both"));
}

TEST_F(TwoPieces, MustHaveOneDtype) {
  composed_.parts[0].box.row_end = 2;
  composed_.parts.push_back({1, {4, 3}, {0, 2, 0, 3}, false, 2, 0});
  EXPECT_THAT(ErrorOfMaking().message(),
              HasSubstr("'whole' is BF16 and 'other' is F32, and both "));
  EXPECT_THAT(ErrorOfMaking().message(), HasSubstr("in one dtype"));
  // Of two files that give it one name the places are named.
  tensors_[1].name = "whole";
  tensors_[1].pieces = {{{0, 0}, {2, 3}, 1, 0, {3, 1}}};
  EXPECT_THAT(ErrorOfMaking().message(),
              HasSubstr("'upper' is BF16 and 'lower' is F32, and both "));
}

TEST_F(TwoPieces, CannotBeReadAsAnotherMatrix) {
  composed_.shape = {2, 6};
  composed_.matrix = {2, 6};
  composed_.parts[0] = {0, {2, 6}, {0, 2, 0, 6}, false, 0, 0};
  EXPECT_THAT(ErrorOfMaking().message(), HasSubstr("in one piece"));
}

}  // namespace
}  // namespace dsv3::convert

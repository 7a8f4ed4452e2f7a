#include "convert/open/sharded_tensors.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/box.h"
#include "convert/plan/assemble_expression.h"
#include "convert/plan/slice_expression.h"
#include "formats/error.h"

namespace dsv3::convert {

// A box of a tensor's matrix, and the elements of a stored tensor that fill it.
struct Composer::MatrixPiece {
  Box box;
  std::uint32_t stored = 0;
  std::uint64_t first = 0;
  std::uint64_t row_step = 1;
  std::uint64_t col_step = 1;
};

// Those of a tensor, by their first rows.
struct Composer::Pieces {
  std::vector<MatrixPiece> all;
  std::uint64_t most_rows = 0;  // of one of them
};

namespace {

constexpr std::string_view kAdvice = "save the checkpoint again";

std::uint64_t Product(const formats::Shape& shape, std::size_t begin, std::size_t end) {
  std::uint64_t product = 1;
  for (std::size_t i = begin; i < end; ++i) product *= shape[i];
  return product;
}

bool IsEmpty(const formats::Shape& shape) {
  return std::find(shape.begin(), shape.end(), std::uint64_t{0}) != shape.end();
}

// Calls `visit` with the boxes of the matrix that a piece is, each with the step to its first
// element: one box, unless the piece is cut in a dimension that the matrix's rows run over, or its
// rows lie at uneven distances.
template <typename Visit>
void ForEachBox(const formats::Shape& shape, const StoredPiece& piece, Visit&& visit) {
  const std::size_t row_dims = shape.size() - 1;
  // Dimensions [joined, row_dims) run over rows that follow each other in both.
  std::size_t joined = row_dims - 1;
  while (joined > 0 && piece.sizes[joined] == shape[joined] &&
         piece.strides[joined - 1] == piece.strides[joined] * piece.sizes[joined]) {
    --joined;
  }
  Box box;
  box.col_begin = piece.offsets.back();
  box.col_end = box.col_begin + piece.sizes.back();
  const std::uint64_t rows = Product(piece.sizes, joined, row_dims);
  // Of the dimensions before, each position by itself.
  formats::Shape position(joined, 0);
  for (;;) {
    std::uint64_t row = 0;
    std::uint64_t first = piece.first;
    for (std::size_t i = 0; i < row_dims; ++i) {
      const std::uint64_t at = i < joined ? position[i] : 0;
      row = row * shape[i] + piece.offsets[i] + at;
      first += at * piece.strides[i];
    }
    box.row_begin = row;
    box.row_end = row + rows;
    visit(box, first);
    std::size_t next = joined;
    while (next > 0 && ++position[next - 1] == piece.sizes[next - 1]) position[--next] = 0;
    if (next == 0) return;
  }
}

}  // namespace

formats::Shape RowMajorStrides(const formats::Shape& shape) {
  formats::Shape strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i > 1; --i) strides[i - 2] = strides[i - 1] * shape[i - 1];
  return strides;
}

Composer::Composer(const std::vector<ShardedTensor>& tensors, const Catalog& stored)
    : tensors_(tensors), stored_(stored), pieces_(tensors.size()) {}

Composer::~Composer() = default;

const Composer::Pieces& Composer::PiecesOf(std::uint32_t source) {
  if (pieces_[source]) return *pieces_[source];
  pieces_[source] = std::make_unique<Pieces>();
  Pieces& pieces = *pieces_[source];
  const ShardedTensor& tensor = tensors_[source];
  for (const StoredPiece& piece : tensor.pieces) {
    if (IsEmpty(piece.sizes)) continue;
    if (tensor.shape.size() < 2) {
      const bool scalar = tensor.shape.empty();
      const std::uint64_t begin = scalar ? 0 : piece.offsets[0];
      const std::uint64_t end = begin + (scalar ? 1 : piece.sizes[0]);
      pieces.all.push_back(
          {{begin, end, 0, 1}, piece.stored, piece.first, scalar ? 1 : piece.strides[0], 1});
      continue;
    }
    ForEachBox(tensor.shape, piece, [&](const Box& box, std::uint64_t first) {
      pieces.all.push_back({box, piece.stored, first, piece.strides[piece.strides.size() - 2],
                            piece.strides.back()});
    });
  }
  std::sort(pieces.all.begin(), pieces.all.end(), [](const MatrixPiece& a, const MatrixPiece& b) {
    return a.box.row_begin < b.box.row_begin;
  });
  for (const MatrixPiece& piece : pieces.all) {
    pieces.most_rows = std::max(pieces.most_rows, piece.box.rows());
  }
  return pieces;
}

void Composer::AddTiles(const TensorPart& part, const std::string& name, std::vector<Tile>& tiles) {
  const auto add = [&](const MatrixPiece& piece) {
    const Box both = Intersect(part.box, piece.box);
    if (both.empty()) return;
    const std::uint64_t down = both.row_begin - part.box.row_begin;
    const std::uint64_t right = both.col_begin - part.box.col_begin;
    const std::uint64_t first = piece.first +
                                (both.row_begin - piece.box.row_begin) * piece.row_step +
                                (both.col_begin - piece.box.col_begin) * piece.col_step;
    const std::uint64_t cols = MatrixOf(stored_.tensors()[piece.stored].shape).cols;
    Tile tile;
    tile.tensor = piece.stored;
    tile.row = first / cols;
    tile.col = first % cols;
    const std::uint64_t row = part.row + (part.transposed ? right : down);
    const std::uint64_t col = part.col + (part.transposed ? down : right);
    tile.target = {row, row + (part.transposed ? both.cols() : both.rows()), col,
                   col + (part.transposed ? both.rows() : both.cols())};
    tile.row_step = part.transposed ? piece.col_step : piece.row_step;
    tile.col_step = part.transposed ? piece.row_step : piece.col_step;
    // A single row has no step to a next one.
    if (tile.target.rows() == 1 && tile.col_step == 1) tile.row_step = cols;
    tiles.push_back(tile);
  };
  const ShardedTensor& source = tensors_[part.source];
  if (part.matrix == MatrixOf(source.shape)) {
    const Pieces& pieces = PiecesOf(part.source);
    const std::uint64_t before =
        part.box.row_begin - std::min(part.box.row_begin, pieces.most_rows);
    auto piece =
        std::partition_point(pieces.all.begin(), pieces.all.end(),
                             [&](const MatrixPiece& each) { return each.box.row_begin < before; });
    for (; piece != pieces.all.end() && piece->box.row_begin < part.box.row_end; ++piece) {
      add(*piece);
    }
    return;
  }
  // The layout declares another matrix for the same elements, which must then lie together.
  if (source.pieces.size() != 1 || source.pieces[0].sizes != source.shape ||
      source.pieces[0].strides != RowMajorStrides(source.shape)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("tensor {}: {} must lie in one piece, and the checkpoint holds it in "
                            "several; save the checkpoint with one rank",
                            QuoteForMessage(name), QuoteForMessage(source.name)),
                {"", name});
  }
  add({{0, part.matrix.rows, 0, part.matrix.cols},
       source.pieces[0].stored,
       source.pieces[0].first,
       part.matrix.cols,
       1});
}

ExpressionPtr Composer::Make(const ComposedTensor& composed) {
  const ShardedTensor& first = tensors_[composed.parts.front().source];
  const auto refuse = [&](const std::string& problem) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("tensor {}: {}", QuoteForMessage(composed.name), problem),
                {"", composed.name});
  };
  if (formats::DtypeBits(first.dtype) % 8 != 0) {
    refuse(fmt::format("it is {}, whose elements are parts of bytes; save the checkpoint in BF16",
                       formats::DtypeName(first.dtype)));
  }
  std::vector<Tile> tiles;
  for (const TensorPart& part : composed.parts) {
    const ShardedTensor& source = tensors_[part.source];
    if (source.dtype != first.dtype) {
      // Those of two ranks have one name, but not one file.
      const auto name = [&](const ShardedTensor& of) {
        const bool alike = source.name == first.name && !of.pieces.empty();
        return QuoteForMessage(alike ? stored_.tensors()[of.pieces[0].stored].name : of.name);
      };
      refuse(
          fmt::format("{} is {} and {} is {}, and both are parts of it; save the checkpoint in "
                      "one dtype",
                      name(first), formats::DtypeName(first.dtype), name(source),
                      formats::DtypeName(source.dtype)));
    }
    AddTiles(part, composed.name, tiles);
  }
  if (composed.matrix == MatrixOf(composed.shape)) {
    return Assemble(stored_, composed.name, first.dtype, composed.shape, std::move(tiles), kAdvice);
  }
  // The same bytes under another shape.
  ExpressionPtr matrix =
      Assemble(stored_, composed.name, first.dtype, {composed.matrix.rows, composed.matrix.cols},
               std::move(tiles), kAdvice);
  std::vector<SlicePart> whole;
  whole.push_back({std::move(matrix), Whole(composed.matrix)});
  return std::make_shared<SliceExpression>(first.dtype, composed.shape, std::move(whole));
}

}  // namespace dsv3::convert

#include "convert/layouts/flatten.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

// Where in its tensor a part lies.
Box TargetOf(const TensorPart& part) {
  const std::uint64_t rows = part.transposed ? part.box.cols() : part.box.rows();
  const std::uint64_t cols = part.transposed ? part.box.rows() : part.box.cols();
  return {part.row, part.row + rows, part.col, part.col + cols};
}

// The piece of `source`, a part of the tensor that `part` takes a box of, that lies in that box.
TensorPart PieceOf(const TensorPart& part, const TensorPart& source, const Box& shared) {
  const std::uint64_t down = shared.row_begin - source.row;
  const std::uint64_t right = shared.col_begin - source.col;
  const std::uint64_t row = source.box.row_begin + (source.transposed ? right : down);
  const std::uint64_t col = source.box.col_begin + (source.transposed ? down : right);
  const std::uint64_t rows = source.transposed ? shared.cols() : shared.rows();
  const std::uint64_t cols = source.transposed ? shared.rows() : shared.cols();
  return {source.source,
          source.matrix,
          {row, row + rows, col, col + cols},
          source.transposed,
          part.row + (shared.row_begin - part.box.row_begin),
          part.col + (shared.col_begin - part.box.col_begin)};
}

}  // namespace

ComposedTensor Flatten(const ComposedTensor& outer, const std::vector<ComposedTensor>& inner) {
  ComposedTensor flat{outer.name, outer.shape, outer.matrix, {}};
  std::uint64_t elements = 0;
  for (const TensorPart& part : outer.parts) {
    const ComposedTensor& made = inner.at(part.source);
    for (const TensorPart& source : made.parts) {
      const Box shared = Intersect(part.box, TargetOf(source));
      if (shared.empty()) continue;
      if (part.transposed || part.matrix != made.matrix) break;
      elements += shared.elements();
      flat.parts.push_back(PieceOf(part, source, shared));
    }
  }
  if (elements != flat.matrix.rows * flat.matrix.cols) {
    throw Error(ErrorCode::kInternal,
                fmt::format("tensor {}: its parts cannot be found in the sources of their tensors",
                            QuoteForMessage(outer.name)),
                {"", outer.name});
  }
  std::sort(flat.parts.begin(), flat.parts.end(), [](const TensorPart& a, const TensorPart& b) {
    return std::pair(a.row, a.col) < std::pair(b.row, b.col);
  });
  return flat;
}

}  // namespace dsv3::convert
